-- Accounts of other services with which accounts of this database sign in. Imported from PocketBase.
CREATE TABLE _external_auths (
    id TEXT PRIMARY KEY NOT NULL,
    -- Ids of the collection and of the account.
    collection TEXT NOT NULL,
    record TEXT NOT NULL,
    provider TEXT NOT NULL,
    provider_id TEXT NOT NULL,
    created TEXT NOT NULL,
    updated TEXT NOT NULL,
    UNIQUE (collection, provider, provider_id)
) STRICT;
