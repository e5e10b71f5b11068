"""The index database's tables, and the steps that bring an older file up to date."""


def _tags_of(run: str, source: str = "") -> str:
    """The rows of run_tags for `run`; 256 letters is `listing.TAG_LIMIT`."""
    return (
        f"SELECT {run}.sequence, tag.key, tag.value, {run}.owner, {run}.state "  # noqa: S608
        f"FROM {source}json_each({run}.tags) AS tag "
        "WHERE length(tag.key) + length(tag.value) <= 256"
    )


MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE runs (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        handle TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        state TEXT NOT NULL,
        workflow TEXT NOT NULL,
        service_rank INTEGER NOT NULL,
        service_level TEXT NOT NULL,
        request TEXT NOT NULL,
        resources TEXT NOT NULL,
        tags TEXT NOT NULL,
        created TEXT NOT NULL,
        started TEXT,
        ended TEXT,
        exit_code INTEGER,
        counts TEXT,
        input_bytes INTEGER,
        outputs TEXT NOT NULL,
        failure TEXT
    ) STRICT;
    CREATE INDEX runs_by_owner ON runs (owner, sequence);
    CREATE INDEX runs_by_workflow ON runs (owner, workflow, sequence);
    CREATE INDEX runs_active ON runs (state, service_rank, sequence)
        WHERE state IN ('QUEUED', 'INITIALIZING', 'RUNNING', 'CANCELING');

    CREATE TABLE tasks (
        run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
        id TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        name TEXT NOT NULL,
        state TEXT NOT NULL,
        wildcards TEXT NOT NULL,
        command TEXT,
        threads INTEGER,
        started TEXT,
        ended TEXT,
        exit_code INTEGER,
        stdout TEXT,
        stderr TEXT,
        cpu_seconds REAL,
        peak_memory INTEGER,
        PRIMARY KEY (run_id, id, attempt)
    ) STRICT;

    CREATE TABLE state_counts (
        owner TEXT NOT NULL,
        state TEXT NOT NULL,
        runs INTEGER NOT NULL,
        PRIMARY KEY (owner, state)
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER runs_counted AFTER INSERT ON runs BEGIN
        INSERT INTO state_counts VALUES (NEW.owner, NEW.state, 1)
            ON CONFLICT (owner, state) DO UPDATE SET runs = runs + 1;
    END;
    CREATE TRIGGER runs_uncounted AFTER DELETE ON runs BEGIN
        UPDATE state_counts SET runs = runs - 1 WHERE owner = OLD.owner AND state = OLD.state;
    END;
    CREATE TRIGGER runs_recounted AFTER UPDATE OF state ON runs WHEN NEW.state <> OLD.state BEGIN
        UPDATE state_counts SET runs = runs - 1 WHERE owner = OLD.owner AND state = OLD.state;
        INSERT INTO state_counts VALUES (NEW.owner, NEW.state, 1)
            ON CONFLICT (owner, state) DO UPDATE SET runs = runs + 1;
    END;
    """,
    # Lists by state and by tag: a tag's rows carry the state, so that one range holds both.
    f"""
    CREATE INDEX runs_by_state ON runs (owner, state, sequence);
    CREATE TABLE run_tags (
        sequence INTEGER NOT NULL,
        name TEXT NOT NULL,
        value TEXT NOT NULL,
        owner TEXT NOT NULL,
        state TEXT NOT NULL,
        PRIMARY KEY (sequence, name)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX run_tags_by_value ON run_tags (owner, name, value, state, sequence);
    CREATE TRIGGER tags_listed AFTER INSERT ON runs BEGIN
        INSERT INTO run_tags {_tags_of("NEW")};
    END;
    CREATE TRIGGER tags_relisted AFTER UPDATE OF tags ON runs WHEN NEW.tags <> OLD.tags BEGIN
        DELETE FROM run_tags WHERE sequence = OLD.sequence;
        INSERT INTO run_tags {_tags_of("NEW")};
    END;
    CREATE TRIGGER tags_moved AFTER UPDATE OF state ON runs WHEN NEW.state <> OLD.state BEGIN
        UPDATE run_tags SET state = NEW.state WHERE sequence = NEW.sequence;
    END;
    CREATE TRIGGER tags_unlisted AFTER DELETE ON runs BEGIN
        DELETE FROM run_tags WHERE sequence = OLD.sequence;
    END;
    INSERT INTO run_tags {_tags_of("runs", "runs, ")};
    """,  # noqa: S608
    # A submission's key lives in the run's request, so that the run directory has it, too.
    """
    CREATE UNIQUE INDEX runs_by_key
        ON runs (owner, json_extract(request, '$.marks.submission_key'))
        WHERE json_extract(request, '$.marks.submission_key') IS NOT NULL;
    """,
    # Who wants to be told of a run's states: written with the state itself, so that none is lost.
    # `due` is Unix time.
    """
    CREATE TABLE callbacks (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id TEXT NOT NULL,
        url TEXT NOT NULL,
        state TEXT NOT NULL,
        moved TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
        attempts INTEGER NOT NULL DEFAULT 0,
        due REAL NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX callbacks_by_run ON callbacks (run_id, number);
    CREATE TRIGGER callbacks_wanted AFTER UPDATE OF state ON runs
        WHEN NEW.state <> OLD.state
        AND json_extract(NEW.request, '$.marks.callback_url') IS NOT NULL BEGIN
        INSERT INTO callbacks (run_id, url, state)
            VALUES (NEW.id, json_extract(NEW.request, '$.marks.callback_url'), NEW.state);
    END;
    """,
    # The terms of the service level, and how long the tools really took.
    """
    ALTER TABLE runs ADD COLUMN terms TEXT;
    ALTER TABLE runs ADD COLUMN real_seconds REAL;
    """,
)
"""Step N brings `PRAGMA user_version` from N to N + 1. Never edit a released step; add one."""
