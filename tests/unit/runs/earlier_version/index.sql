BEGIN TRANSACTION;
CREATE TABLE callbacks (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id TEXT NOT NULL,
        url TEXT NOT NULL,
        state TEXT NOT NULL,
        moved TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
        attempts INTEGER NOT NULL DEFAULT 0,
        due REAL NOT NULL DEFAULT 0
    ) STRICT;
INSERT INTO "callbacks" VALUES(1,'cd447e35-b8b6-48fe-842e-3d437204e52d','http://192.0.2.1/hook','INITIALIZING','2026-11-29T19:18:07Z',1,1.79597988846377491951e+09);
INSERT INTO "callbacks" VALUES(2,'cd447e35-b8b6-48fe-842e-3d437204e52d','http://192.0.2.1/hook','RUNNING','2026-11-29T19:18:07Z',0,0.0);
INSERT INTO "callbacks" VALUES(3,'cd447e35-b8b6-48fe-842e-3d437204e52d','http://192.0.2.1/hook','EXECUTOR_ERROR','2026-11-29T19:18:07Z',0,0.0);
CREATE TABLE run_tags (
        sequence INTEGER NOT NULL,
        name TEXT NOT NULL,
        value TEXT NOT NULL,
        owner TEXT NOT NULL,
        state TEXT NOT NULL,
        PRIMARY KEY (sequence, name)
    ) STRICT, WITHOUT ROWID;
INSERT INTO "run_tags" VALUES(2,'project','p','local','COMPLETE');
INSERT INTO "run_tags" VALUES(9,'wesemu.node','cpu','local','CANCELED');
INSERT INTO "run_tags" VALUES(8,'wesemu.node','cpu','local','CANCELING');
INSERT INTO "run_tags" VALUES(1,'wesemu.node','cpu','local','COMPLETE');
INSERT INTO "run_tags" VALUES(2,'wesemu.node','cpu','local','COMPLETE');
INSERT INTO "run_tags" VALUES(5,'wesemu.node','cpu','local','COMPLETE');
INSERT INTO "run_tags" VALUES(3,'wesemu.node','cpu','local','EXECUTOR_ERROR');
INSERT INTO "run_tags" VALUES(7,'wesemu.node','cpu','local','INITIALIZING');
INSERT INTO "run_tags" VALUES(10,'wesemu.node','cpu','local','QUEUED');
INSERT INTO "run_tags" VALUES(6,'wesemu.node','cpu','local','RUNNING');
INSERT INTO "run_tags" VALUES(4,'wesemu.node','cpu','local','SYSTEM_ERROR');
INSERT INTO "run_tags" VALUES(11,'wesemu.node','cuda','local','QUEUED');
INSERT INTO "run_tags" VALUES(11,'wesemu.node.note','this node had no GPU when the run came: it waits for a server with one; asked for cuda, but there is no Parabricks (pbrun is not on PATH and no image is named): the CPU does it','local','QUEUED');
INSERT INTO "run_tags" VALUES(10,'wesemu.outputs.shared','oss://genes/out/running.bam is an output of the run ea90a8f0-d66b-429e-aa8a-c4ba05805975, too; the last one to end wins','local','QUEUED');
INSERT INTO "run_tags" VALUES(1,'wesemu.tools.bwa','0.7.17','local','COMPLETE');
INSERT INTO "run_tags" VALUES(2,'wesemu.tools.bwa','0.7.17','local','COMPLETE');
INSERT INTO "run_tags" VALUES(1,'wesemu.tools.samtools','1.21','local','COMPLETE');
INSERT INTO "run_tags" VALUES(2,'wesemu.tools.samtools','1.21','local','COMPLETE');
INSERT INTO "run_tags" VALUES(5,'wesemu.unpublished','results/link is not published: it is a symbolic link','local','COMPLETE');
INSERT INTO "run_tags" VALUES(1,'wesemu.warnings','few reads','local','COMPLETE');
INSERT INTO "run_tags" VALUES(2,'wesemu.warnings','few reads','local','COMPLETE');
INSERT INTO "run_tags" VALUES(1,'wesemu_bases','120e9','local','COMPLETE');
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
    , terms TEXT, real_seconds REAL) STRICT;
INSERT INTO "runs" VALUES(1,'cd613e30-d8f1-4adf-91b7-584a2265b1f5','2jrqw','local','COMPLETE','mapping',2,'s','{"workflow_url":"mapping","workflow_type":"SMK","workflow_type_version":"","params":{"reads":[{"first":"oss://genes/fastq/a_1.fq.gz","second":"oss://genes/fastq/a_2.fq.gz"}],"reference":"oss://genes/reference/tiny","bam":"oss://genes/out/ags.bam"},"tags":{"wesemu_bases":"120e9"},"engine_parameters":{},"echo":{"mapping_fastq_first_name":"fastq/a_1.fq.gz","mapping_fastq_second_name":"fastq/a_2.fq.gz","mapping_bucket_name":"genes","mapping_bam_file_name":"out/ags.bam","mapping_reference_file":"reference/tiny","wesemu_bases":"120e9"},"marks":{}}','{"cores":2,"memory_mb":0,"gpus":0,"least_gpus":0}','{"wesemu_bases":"120e9","wesemu.node":"cpu","wesemu.tools.bwa":"0.7.17","wesemu.tools.samtools":"1.21","wesemu.warnings":"few reads"}','2020-01-15T08:30:25.000000+00:00','2020-01-15T08:30:25.000000+00:00','2020-01-15T08:30:25.000000+00:00',0,'{"total_reads":4000,"total_bases":600000}',6,'[{"name":"bam","path":"results/aligned.bam","size":3,"published":"oss://genes/out/ags.bam","sha256":"c61dea0be590b9a4560e2179b99bf59e6a97d9837ca4f72f5a073be20bdc966d"},{"name":"bam_index","path":"results/aligned.bam.bai","size":3,"published":"oss://genes/out/ags.bam.bai","sha256":"61e254213f3b106f2804969a30660d3f50171080b4b1ad88bae2f41ad4e1d884"},{"name":"summary","path":"results/summary.json","size":88,"published":null,"sha256":"c1961b6de91a541eb167de6480a9c8c84ae48a13a4da3f1cbb834f3a6692a486"},{"name":"flagstat","path":"results/flagstat.json","size":2,"published":null,"sha256":"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},{"name":"stats","path":"results/stats.txt","size":3,"published":null,"sha256":"1ed9584701cc75f50457beeeb3220af921f145cfb635315df2874a4ccc41d549"},{"name":"reads","path":"results/reads.json","size":44,"published":null,"sha256":"1964940f87f8aa1a7025d006154022429b59ec26942331f163275a9624a11271"}]',NULL,'{"pace":"real","bases":120000000000,"factor":"1","read_length_penalty":false,"fault":{"late_minutes":0,"fails_at_task":null,"out_of_disk":false}}',0.0);
INSERT INTO "runs" VALUES(2,'7ce42c82-1807-4e8c-b5bf-992dc9e9c616','b5p2b','local','COMPLETE','mapping',2,'s','{"workflow_url":"mapping","workflow_type":"SMK","workflow_type_version":"","params":{"reads":[{"first":"oss://genes/fastq/a_1.fq.gz","second":"oss://genes/fastq/a_2.fq.gz"}],"reference":"oss://genes/reference/tiny","sample":"complete","bam":"oss://genes/out/wes.bam"},"tags":{"project":"p"},"engine_parameters":{},"echo":{},"marks":{"submission_key":"a key","submission_digest":"99317a491c193254d3b50963f30bc53bc5e4c36bab04d5848e33e4ebb0060fb5"}}','{"cores":2,"memory_mb":0,"gpus":0,"least_gpus":0}','{"project":"p","wesemu.node":"cpu","wesemu.tools.bwa":"0.7.17","wesemu.tools.samtools":"1.21","wesemu.warnings":"few reads"}','2020-01-15T08:30:25.000000+00:00','2020-01-15T08:30:25.000000+00:00','2020-01-15T08:30:25.000000+00:00',0,'{"total_reads":4000,"total_bases":600000}',6,'[{"name":"bam","path":"results/aligned.bam","size":3,"published":"oss://genes/out/wes.bam","sha256":"c61dea0be590b9a4560e2179b99bf59e6a97d9837ca4f72f5a073be20bdc966d"},{"name":"bam_index","path":"results/aligned.bam.bai","size":3,"published":"oss://genes/out/wes.bam.bai","sha256":"61e254213f3b106f2804969a30660d3f50171080b4b1ad88bae2f41ad4e1d884"},{"name":"summary","path":"results/summary.json","size":88,"published":null,"sha256":"c1961b6de91a541eb167de6480a9c8c84ae48a13a4da3f1cbb834f3a6692a486"},{"name":"flagstat","path":"results/flagstat.json","size":2,"published":null,"sha256":"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},{"name":"stats","path":"results/stats.txt","size":3,"published":null,"sha256":"1ed9584701cc75f50457beeeb3220af921f145cfb635315df2874a4ccc41d549"},{"name":"reads","path":"results/reads.json","size":44,"published":null,"sha256":"1964940f87f8aa1a7025d006154022429b59ec26942331f163275a9624a11271"}]',NULL,'{"pace":"real","bases":null,"factor":"1","read_length_penalty":false,"fault":{"late_minutes":0,"fails_at_task":null,"out_of_disk":false}}',0.0);
INSERT INTO "runs" VALUES(3,'cd447e35-b8b6-48fe-842e-3d437204e52d','j87bb','local','EXECUTOR_ERROR','mapping',2,'s','{"workflow_url":"mapping","workflow_type":"SMK","workflow_type_version":"","params":{"reads":[{"first":"oss://genes/fastq/a_1.fq.gz","second":"oss://genes/fastq/a_2.fq.gz"}],"reference":"oss://genes/reference/tiny","sample":"fail","bam":"oss://genes/out/failed.bam"},"tags":{},"engine_parameters":{},"echo":{},"marks":{"callback_url":"http://192.0.2.1/hook"}}','{"cores":2,"memory_mb":0,"gpus":0,"least_gpus":0}','{"wesemu.node":"cpu"}','2020-01-15T08:30:25.000000+00:00','2020-01-15T08:30:25.000000+00:00','2020-01-15T08:30:25.000000+00:00',1,NULL,6,'[]','{"message":"the task align ended with exit status 1","hint":null,"file":null,"record":null,"task":"align","exit_code":1,"stderr":"tasks/1-1/stderr"}','{"pace":"real","bases":null,"factor":"1","read_length_penalty":false,"fault":{"late_minutes":0,"fails_at_task":null,"out_of_disk":false}}',0.0);
INSERT INTO "runs" VALUES(4,'e1988ad9-f06c-444a-825b-413f8a9a021e','nhpbh','local','SYSTEM_ERROR','mapping',2,'s','{"workflow_url":"mapping","workflow_type":"SMK","workflow_type_version":"","params":{"reads":[{"first":"oss://genes/fastq/a_1.fq.gz","second":"oss://genes/fastq/a_2.fq.gz"}],"reference":"oss://genes/reference/tiny","sample":"crash","bam":"oss://genes/out/crashed.bam"},"tags":{},"engine_parameters":{},"echo":{},"marks":{}}','{"cores":2,"memory_mb":0,"gpus":0,"least_gpus":0}','{"wesemu.node":"cpu"}','2020-01-15T08:30:25.000000+00:00','2020-01-15T08:30:25.000000+00:00','2020-01-15T08:30:25.000000+00:00',NULL,NULL,6,'[]','{"message":"the engine''s process vanished 2 times without an exit status; was it killed for want of memory?","hint":null,"file":null,"record":null,"task":null,"exit_code":null,"stderr":null}','{"pace":"real","bases":null,"factor":"1","read_length_penalty":false,"fault":{"late_minutes":0,"fails_at_task":null,"out_of_disk":false}}',NULL);
INSERT INTO "runs" VALUES(5,'8d88348a-7eed-4d14-b06d-3fef701966a0','jjhqk','local','COMPLETE','',2,'s','{"workflow_url":"file://{HERE}/workflows/Snakefile","workflow_type":"SMK","workflow_type_version":"","params":{"script":[{"task":"own"},{"write":"results/a.txt"},{"write":"results/link"}]},"tags":{},"engine_parameters":{},"echo":{},"marks":{"workflow_file":"Snakefile","workflow_sources":"[{\"file\": \"Snakefile\", \"url\": \"file://{HERE}/workflows/Snakefile\", \"size\": 27, \"sha256\": \"0ca95a748a609ffd5c24eac6c5fe0ee176bd28d76cdc388d4e1af965469a642d\"}]"}}','{"cores":2,"memory_mb":0,"gpus":0,"least_gpus":0}','{"wesemu.node":"cpu","wesemu.unpublished":"results/link is not published: it is a symbolic link"}','2020-01-15T08:30:25.000000+00:00','2020-01-15T08:30:25.000000+00:00','2020-01-15T08:30:25.000000+00:00',0,NULL,NULL,'[{"name":"results/a.txt","path":"results/a.txt","size":0,"published":null,"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]',NULL,'{"pace":"real","bases":null,"factor":"1","read_length_penalty":false,"fault":{"late_minutes":0,"fails_at_task":null,"out_of_disk":false}}',0.0);
INSERT INTO "runs" VALUES(6,'ea90a8f0-d66b-429e-aa8a-c4ba05805975','twh96','local','RUNNING','mapping',2,'s','{"workflow_url":"mapping","workflow_type":"SMK","workflow_type_version":"","params":{"reads":[{"first":"oss://genes/fastq/a_1.fq.gz","second":"oss://genes/fastq/a_2.fq.gz"}],"reference":"oss://genes/reference/tiny","sample":"wait-running","bam":"oss://genes/out/running.bam"},"tags":{},"engine_parameters":{},"echo":{},"marks":{}}','{"cores":2,"memory_mb":0,"gpus":0,"least_gpus":0}','{"wesemu.node":"cpu"}','2020-01-15T08:30:25.000000+00:00','2020-01-15T08:30:25.000000+00:00',NULL,NULL,NULL,6,'[]',NULL,'{"pace":"real","bases":null,"factor":"1","read_length_penalty":false,"fault":{"late_minutes":0,"fails_at_task":null,"out_of_disk":false}}',NULL);
INSERT INTO "runs" VALUES(7,'e5446dd4-552b-42f6-be3e-dc0a1ef2a4f0','zz8p5','local','INITIALIZING','mapping',2,'s','{"workflow_url":"mapping","workflow_type":"SMK","workflow_type_version":"","params":{"reads":[{"first":"oss://genes/fastq/a_1.fq.gz","second":"oss://genes/fastq/a_2.fq.gz"}],"reference":"oss://genes/reference/tiny","sample":"launch-never","bam":"oss://genes/out/starting.bam"},"tags":{},"engine_parameters":{},"echo":{},"marks":{}}','{"cores":2,"memory_mb":0,"gpus":0,"least_gpus":0}','{"wesemu.node":"cpu"}','2020-01-15T08:30:25.000000+00:00','2020-01-15T08:30:25.000000+00:00',NULL,NULL,NULL,6,'[]',NULL,'{"pace":"real","bases":null,"factor":"1","read_length_penalty":false,"fault":{"late_minutes":0,"fails_at_task":null,"out_of_disk":false}}',NULL);
INSERT INTO "runs" VALUES(8,'48beab13-4da9-4f1d-b099-fdf5ab99254a','t65rt','local','CANCELING','mapping',2,'s','{"workflow_url":"mapping","workflow_type":"SMK","workflow_type_version":"","params":{"reads":[{"first":"oss://genes/fastq/a_1.fq.gz","second":"oss://genes/fastq/a_2.fq.gz"}],"reference":"oss://genes/reference/tiny","sample":"wait-canceling","bam":"oss://genes/out/canceling.bam"},"tags":{},"engine_parameters":{},"echo":{},"marks":{}}','{"cores":2,"memory_mb":0,"gpus":0,"least_gpus":0}','{"wesemu.node":"cpu"}','2020-01-15T08:30:25.000000+00:00','2020-01-15T08:30:25.000000+00:00',NULL,NULL,NULL,6,'[]',NULL,'{"pace":"real","bases":null,"factor":"1","read_length_penalty":false,"fault":{"late_minutes":0,"fails_at_task":null,"out_of_disk":false}}',NULL);
INSERT INTO "runs" VALUES(9,'be6521cc-3e24-44e3-baf0-27bc08d6af57','4pgsx','local','CANCELED','mapping',2,'s','{"workflow_url":"mapping","workflow_type":"SMK","workflow_type_version":"","params":{"reads":[{"first":"oss://genes/fastq/a_1.fq.gz","second":"oss://genes/fastq/a_2.fq.gz"}],"reference":"oss://genes/reference/tiny","sample":"canceled","bam":"oss://genes/out/canceled.bam"},"tags":{},"engine_parameters":{},"echo":{},"marks":{}}','{"cores":2,"memory_mb":0,"gpus":0,"least_gpus":0}','{"wesemu.node":"cpu"}','2020-01-15T08:30:25.000000+00:00',NULL,'2020-01-15T08:30:25.000000+00:00',NULL,NULL,6,'[]',NULL,'{"pace":"real","bases":null,"factor":"1","read_length_penalty":false,"fault":{"late_minutes":0,"fails_at_task":null,"out_of_disk":false}}',NULL);
INSERT INTO "runs" VALUES(10,'1622bd79-5fec-498f-bcfb-b050acab1a6b','pr4sn','local','QUEUED','mapping',2,'s','{"workflow_url":"mapping","workflow_type":"SMK","workflow_type_version":"","params":{"reads":[{"first":"oss://genes/fastq/a_1.fq.gz","second":"oss://genes/fastq/a_2.fq.gz"}],"reference":"oss://genes/reference/tiny","sample":"queued","bam":"oss://genes/out/running.bam"},"tags":{},"engine_parameters":{},"echo":{},"marks":{"submission_key":"another key","submission_digest":"99822233518b2b74edfca5f39479a8b860e42240e46698c3ebfc73eef392c3eb"}}','{"cores":2,"memory_mb":0,"gpus":0,"least_gpus":0}','{"wesemu.node":"cpu","wesemu.outputs.shared":"oss://genes/out/running.bam is an output of the run ea90a8f0-d66b-429e-aa8a-c4ba05805975, too; the last one to end wins"}','2020-01-15T08:30:25.000000+00:00',NULL,NULL,NULL,NULL,6,'[]',NULL,'{"pace":"real","bases":null,"factor":"1","read_length_penalty":false,"fault":{"late_minutes":0,"fails_at_task":null,"out_of_disk":false}}',NULL);
INSERT INTO "runs" VALUES(11,'78255d68-0792-4986-bb96-8a437d5c8dfc','cx9vn','local','QUEUED','mapping',2,'s','{"workflow_url":"mapping","workflow_type":"SMK","workflow_type_version":"","params":{"reads":[{"first":"oss://genes/fastq/a_1.fq.gz","second":"oss://genes/fastq/a_2.fq.gz"}],"reference":"oss://genes/reference/tiny","sample":"gpu","bam":"oss://genes/out/gpu.bam"},"tags":{},"engine_parameters":{"node":"cuda","gpus":"1"},"echo":{},"marks":{}}','{"cores":2,"memory_mb":0,"gpus":1,"least_gpus":1}','{"wesemu.node":"cuda","wesemu.node.note":"this node had no GPU when the run came: it waits for a server with one; asked for cuda, but there is no Parabricks (pbrun is not on PATH and no image is named): the CPU does it"}','2020-01-15T08:30:25.000000+00:00',NULL,NULL,NULL,NULL,6,'[]',NULL,'{"pace":"real","bases":null,"factor":"1","read_length_penalty":false,"fault":{"late_minutes":0,"fails_at_task":null,"out_of_disk":false}}',NULL);
CREATE TABLE state_counts (
        owner TEXT NOT NULL,
        state TEXT NOT NULL,
        runs INTEGER NOT NULL,
        PRIMARY KEY (owner, state)
    ) STRICT, WITHOUT ROWID;
INSERT INTO "state_counts" VALUES('local','CANCELED',1);
INSERT INTO "state_counts" VALUES('local','CANCELING',1);
INSERT INTO "state_counts" VALUES('local','COMPLETE',3);
INSERT INTO "state_counts" VALUES('local','EXECUTOR_ERROR',1);
INSERT INTO "state_counts" VALUES('local','INITIALIZING',1);
INSERT INTO "state_counts" VALUES('local','QUEUED',2);
INSERT INTO "state_counts" VALUES('local','RUNNING',1);
INSERT INTO "state_counts" VALUES('local','SYSTEM_ERROR',1);
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
INSERT INTO "tasks" VALUES('cd613e30-d8f1-4adf-91b7-584a2265b1f5','1',1,'align','COMPLETE','{}','play align',1,'2020-01-15T08:30:25.000000+00:00','2020-01-15T08:30:25.000000+00:00',0,'tasks/1-1/stdout','tasks/1-1/stderr',NULL,NULL);
INSERT INTO "tasks" VALUES('7ce42c82-1807-4e8c-b5bf-992dc9e9c616','1',1,'align','COMPLETE','{}','play align',1,'2020-01-15T08:30:25.000000+00:00','2020-01-15T08:30:25.000000+00:00',0,'tasks/1-1/stdout','tasks/1-1/stderr',NULL,NULL);
INSERT INTO "tasks" VALUES('cd447e35-b8b6-48fe-842e-3d437204e52d','1',1,'align','EXECUTOR_ERROR','{}','play align',1,'2020-01-15T08:30:25.000000+00:00','2020-01-15T08:30:25.000000+00:00',1,'tasks/1-1/stdout','tasks/1-1/stderr',NULL,NULL);
INSERT INTO "tasks" VALUES('8d88348a-7eed-4d14-b06d-3fef701966a0','1',1,'own','COMPLETE','{}','play own',1,'2020-01-15T08:30:25.000000+00:00','2020-01-15T08:30:25.000000+00:00',0,'tasks/1-1/stdout','tasks/1-1/stderr',NULL,NULL);
CREATE INDEX runs_by_owner ON runs (owner, sequence);
CREATE INDEX runs_by_workflow ON runs (owner, workflow, sequence);
CREATE INDEX runs_active ON runs (state, service_rank, sequence)
        WHERE state IN ('QUEUED', 'INITIALIZING', 'RUNNING', 'CANCELING');
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
CREATE INDEX runs_by_state ON runs (owner, state, sequence);
CREATE INDEX run_tags_by_value ON run_tags (owner, name, value, state, sequence);
CREATE TRIGGER tags_listed AFTER INSERT ON runs BEGIN
        INSERT INTO run_tags SELECT NEW.sequence, tag.key, tag.value, NEW.owner, NEW.state FROM json_each(NEW.tags) AS tag WHERE length(tag.key) + length(tag.value) <= 256;
    END;
CREATE TRIGGER tags_relisted AFTER UPDATE OF tags ON runs WHEN NEW.tags <> OLD.tags BEGIN
        DELETE FROM run_tags WHERE sequence = OLD.sequence;
        INSERT INTO run_tags SELECT NEW.sequence, tag.key, tag.value, NEW.owner, NEW.state FROM json_each(NEW.tags) AS tag WHERE length(tag.key) + length(tag.value) <= 256;
    END;
CREATE TRIGGER tags_moved AFTER UPDATE OF state ON runs WHEN NEW.state <> OLD.state BEGIN
        UPDATE run_tags SET state = NEW.state WHERE sequence = NEW.sequence;
    END;
CREATE TRIGGER tags_unlisted AFTER DELETE ON runs BEGIN
        DELETE FROM run_tags WHERE sequence = OLD.sequence;
    END;
CREATE UNIQUE INDEX runs_by_key
        ON runs (owner, json_extract(request, '$.marks.submission_key'))
        WHERE json_extract(request, '$.marks.submission_key') IS NOT NULL;
CREATE INDEX callbacks_by_run ON callbacks (run_id, number);
CREATE TRIGGER callbacks_wanted AFTER UPDATE OF state ON runs
        WHEN NEW.state <> OLD.state
        AND json_extract(NEW.request, '$.marks.callback_url') IS NOT NULL BEGIN
        INSERT INTO callbacks (run_id, url, state)
            VALUES (NEW.id, json_extract(NEW.request, '$.marks.callback_url'), NEW.state);
    END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('runs',11);
INSERT INTO "sqlite_sequence" VALUES('callbacks',3);
COMMIT;
PRAGMA user_version = 5;
