-- System tables of local.db: on a replica, how far each database has come.
-- Released: never change, append a step instead.

CREATE TABLE _positions (
    database TEXT PRIMARY KEY NOT NULL,
    -- 32 hexadecimal digits.
    epoch TEXT NOT NULL,
    version INTEGER NOT NULL,
    -- Over all pages, with the epoch's seed; 64 bits.
    checksum INTEGER NOT NULL,
    -- When it was last known to be all that the master had, in milliseconds since 1970.
    synced_ms INTEGER NOT NULL,
    -- Tags of the epochs before, separated by blanks, the latest first.
    past TEXT NOT NULL
) STRICT;
