-- The admins as a collection of accounts, for lists of records with filters.
CREATE VIEW _superusers AS
    SELECT rowid AS rowid, id, email, NULL AS password, 1 AS verified, 0 AS emailVisibility,
           created, updated
    FROM _admins;
