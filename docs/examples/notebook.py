"""A notebook as a script (cells start with # %%): python notebook.py, beside a `wesemu serve`."""

# %% Connect. WESEMU_SERVER names another server.
import json
import tempfile
from pathlib import Path

from wesemu import Client
from wesemu.genomics.simulate.fixture import FixtureSettings, write_fixture

client = Client()
assert client.ready(), "start a server with 'wesemu serve'"

# %% Simulate a sample and upload it.
folder = Path(tempfile.mkdtemp())
sample = write_fixture(folder, FixtureSettings(length=10_000, contigs=1, depth=15, snps=3))
bucket = client.bucket("notebook").create()
for path in (sample.reads_1, sample.reads_2, sample.reference):
    bucket.put(path.name, path)

# %% Call variants. `progress` is called at each change.
run = client.run(
    "wgs",
    bucket="notebook",
    reads=(sample.reads_1.name, sample.reads_2.name),
    reference=bucket.url(sample.reference.name),
    vcf="calls.vcf.gz",
)
run.wait(timeout=600, progress=lambda run: print(run.state, len(run.tasks), "tasks"))
run.raise_for_state()

# %% Look at the results. A notebook shows `run` as a table.
print(f"{run.counts.reads} reads, {run.sla.minutes} minutes, {run.sla.price_cny} CNY")
print("mapped:", json.loads(run.outputs["flagstat"].read())["QC-passed reads"]["mapped"])
print("VCF:", run.outputs["vcf"].download(folder))
