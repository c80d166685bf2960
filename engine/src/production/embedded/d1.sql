-- The records as anybody may read and write them.
CREATE TABLE IF NOT EXISTS tidelock_records(
    dataset TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB,
    PRIMARY KEY (dataset, key)
);

-- What is left of reaped tombstones, by dataset; and where the sequences of their rows ended.
CREATE TABLE IF NOT EXISTS tidelock_floors(
    dataset TEXT NOT NULL PRIMARY KEY,
    row_seq INTEGER NOT NULL,
    floor TEXT NOT NULL
);

-- What Tidelock knows of each record. A row outlives its record: the sequence must not start
-- again; and a row that begins anew begins above the dataset's floor.
CREATE TABLE IF NOT EXISTS tidelock_rows(
    dataset TEXT NOT NULL,
    key TEXT NOT NULL,
    version TEXT,
    -- Where the value is, when the record's own is NULL because it is too large.
    reference TEXT,
    row_seq INTEGER NOT NULL,
    known_row_seq INTEGER NOT NULL,
    foreign_at INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    -- The leases of each projection that may not hold the version yet; NULL: nothing is owed.
    owed TEXT,
    -- When the first of these projections has no holder any more.
    owed_ends INTEGER,
    -- The record's leaf in its dataset's tree, and what its version adds to it. NULL: nobody has
    -- installed one.
    leaf INTEGER,
    lane0 INTEGER,
    lane1 INTEGER,
    lane2 INTEGER,
    lane3 INTEGER,
    PRIMARY KEY (dataset, key)
);
CREATE UNIQUE INDEX IF NOT EXISTS tidelock_rows_by_seq ON tidelock_rows(seq);
CREATE INDEX IF NOT EXISTS tidelock_rows_by_owed ON tidelock_rows(owed_ends)
    WHERE owed IS NOT NULL;

CREATE INDEX IF NOT EXISTS tidelock_rows_by_leaf ON tidelock_rows(dataset, leaf, key)
    WHERE version IS NOT NULL;

-- The tree's leaves: sums over the rows, each changed in the transaction that changes a row.
CREATE TABLE IF NOT EXISTS tidelock_leaves(
    dataset TEXT NOT NULL,
    leaf INTEGER NOT NULL,
    count INTEGER NOT NULL,
    lane0 INTEGER NOT NULL,
    lane1 INTEGER NOT NULL,
    lane2 INTEGER NOT NULL,
    lane3 INTEGER NOT NULL,
    PRIMARY KEY (dataset, leaf)
) WITHOUT ROWID;
INSERT INTO tidelock_leaves(dataset, leaf, count, lane0, lane1, lane2, lane3)
    SELECT dataset, leaf, count(*), sum(lane0) & 4294967295, sum(lane1) & 4294967295,
        sum(lane2) & 4294967295, sum(lane3) & 4294967295
    FROM tidelock_rows
    WHERE lane0 IS NOT NULL AND NOT EXISTS (SELECT 1 FROM tidelock_leaves)
    GROUP BY dataset, leaf;
-- Which table of the user's own a dataset is.
CREATE TABLE IF NOT EXISTS tidelock_tables(
    dataset TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    -- Names and types of the columns that make a value.
    shape TEXT NOT NULL
);

-- What was written to records lately, where concurrent values are merged: what a merge starts from.
CREATE TABLE IF NOT EXISTS tidelock_writes(
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset TEXT NOT NULL,
    key TEXT NOT NULL,
    dot TEXT NOT NULL,
    sibling TEXT NOT NULL,
    -- The history of what its writer had read.
    read TEXT NOT NULL,
    -- NULL: it deletes.
    value BLOB,
    UNIQUE (dataset, key, dot)
);

-- Values that lost a conflict.
CREATE TABLE IF NOT EXISTS tidelock_losers(
    dataset TEXT NOT NULL,
    key TEXT NOT NULL,
    dot TEXT NOT NULL,
    winner TEXT NOT NULL,
    sibling TEXT NOT NULL,
    reference TEXT,
    value BLOB,
    -- The place in the change feed of the install that kept it, when that was, and what won.
    seq INTEGER,
    kept_at INTEGER,
    won TEXT,
    -- What decided; NULL: the later stamp.
    decided TEXT,
    -- Why a rule gave no answer, or which fields no rule settles; what was known before and after.
    why TEXT,
    contexts TEXT,
    PRIMARY KEY (dataset, key, dot, winner)
);
-- What was erased on request: no table has its bytes, or takes them again.
CREATE TABLE IF NOT EXISTS tidelock_erasures(
    dataset TEXT NOT NULL,
    key TEXT NOT NULL,
    dot TEXT NOT NULL,
    -- The write, and when, by whom and why its bytes were erased.
    sibling TEXT NOT NULL,
    erasure TEXT NOT NULL,
    PRIMARY KEY (dataset, key, dot)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tidelock_losers_by_place ON tidelock_losers(ifnull(seq, 0), dot);
CREATE INDEX IF NOT EXISTS tidelock_losers_by_dot ON tidelock_losers(dot);

-- Who refers to a blob in R2.
CREATE INDEX IF NOT EXISTS tidelock_rows_by_blob ON tidelock_rows(json_extract(reference, '$.hash'))
    WHERE reference IS NOT NULL;
CREATE INDEX IF NOT EXISTS tidelock_losers_by_blob
    ON tidelock_losers(json_extract(reference, '$.hash')) WHERE reference IS NOT NULL;

-- Blobs that nothing referred to, and until when their deletes may land.
CREATE TABLE IF NOT EXISTS tidelock_condemned(
    hash TEXT NOT NULL PRIMARY KEY,
    until INTEGER NOT NULL
) WITHOUT ROWID;

-- Every write to a record counts here; Tidelock sets its own straight in the same transaction.
-- Two statements and no upsert: an INSERT OR REPLACE of the user hands its conflict rule down to
-- the trigger, and would begin the row anew.
DROP TRIGGER IF EXISTS tidelock_after_insert;
CREATE TRIGGER tidelock_after_insert AFTER INSERT ON tidelock_records BEGIN
    INSERT INTO tidelock_rows(dataset, key, row_seq, known_row_seq, foreign_at, seq, epoch)
        SELECT NEW.dataset, NEW.key,
            coalesce((SELECT row_seq FROM tidelock_floors WHERE dataset = NEW.dataset), 0), 0, 0,
            (SELECT coalesce(max(seq), 0) + 1 FROM tidelock_rows), 0
        WHERE NOT EXISTS (
            SELECT 1 FROM tidelock_rows WHERE dataset = NEW.dataset AND key = NEW.key);
    UPDATE tidelock_rows SET row_seq = row_seq + 1,
        foreign_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER),
        seq = (SELECT max(seq) + 1 FROM tidelock_rows)
        WHERE dataset = NEW.dataset AND key = NEW.key;
END;
DROP TRIGGER IF EXISTS tidelock_after_update;
CREATE TRIGGER tidelock_after_update AFTER UPDATE ON tidelock_records BEGIN
    INSERT INTO tidelock_rows(dataset, key, row_seq, known_row_seq, foreign_at, seq, epoch)
        SELECT NEW.dataset, NEW.key,
            coalesce((SELECT row_seq FROM tidelock_floors WHERE dataset = NEW.dataset), 0), 0, 0,
            (SELECT coalesce(max(seq), 0) + 1 FROM tidelock_rows), 0
        WHERE NOT EXISTS (
            SELECT 1 FROM tidelock_rows WHERE dataset = NEW.dataset AND key = NEW.key);
    UPDATE tidelock_rows SET row_seq = row_seq + 1,
        foreign_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER),
        seq = (SELECT max(seq) + 1 FROM tidelock_rows)
        WHERE dataset = NEW.dataset AND key = NEW.key;
END;
CREATE TRIGGER IF NOT EXISTS tidelock_after_rename AFTER UPDATE ON tidelock_records
WHEN OLD.dataset <> NEW.dataset OR OLD.key <> NEW.key BEGIN
    UPDATE tidelock_rows SET row_seq = row_seq + 1,
        foreign_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER),
        seq = (SELECT max(seq) + 1 FROM tidelock_rows)
        WHERE dataset = OLD.dataset AND key = OLD.key;
END;
CREATE TRIGGER IF NOT EXISTS tidelock_after_delete AFTER DELETE ON tidelock_records BEGIN
    UPDATE tidelock_rows SET row_seq = row_seq + 1,
        foreign_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER),
        seq = (SELECT max(seq) + 1 FROM tidelock_rows)
        WHERE dataset = OLD.dataset AND key = OLD.key;
END;

-- Records that were here before the triggers, or written while somebody had dropped them.
INSERT INTO tidelock_rows(dataset, key, row_seq, known_row_seq, foreign_at, seq, epoch)
    SELECT dataset, key,
        1 + coalesce((SELECT row_seq FROM tidelock_floors AS f WHERE f.dataset = r.dataset), 0), 0,
        CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER),
        (SELECT coalesce(max(seq), 0) FROM tidelock_rows)
            + row_number() OVER (ORDER BY dataset, key), 0
    FROM tidelock_records AS r
    WHERE NOT EXISTS (
        SELECT 1 FROM tidelock_rows AS t WHERE t.dataset = r.dataset AND t.key = r.key);
