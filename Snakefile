# The suite on any machines that Snakemake can reach. What runs, after what, and what it takes is
# read from `dtfn plan`; what a run does is `dtfn reproduce --only`. Nothing is decided here.
#
#   pip install -e '.[notebook,batch]'
#   snakemake -c2                                      # here, two at a time
#   snakemake --profile profiles/slurm --config tier=bench
#
# --config tier=smoke|demo|bench|paper  reports=FOLDER  plan=FILE  dtfn=PROGRAM
import hashlib
import json
import shlex
import subprocess
from pathlib import Path

PROGRAM = shlex.quote(config.get("dtfn", "dtfn"))
TIER = config.get("tier", "demo")
REPORTS = shlex.quote(config.get("reports", "reports"))
OPTIONS = f"--tier {TIER} --reports {REPORTS}"
if "plan" in config:
    OPTIONS += f" --plan {shlex.quote(config['plan'])}"

PLAN = json.loads(subprocess.check_output(f"{PROGRAM} plan {OPTIONS} --json", shell=True, text=True))
RUNS = {run["name"]: run for run in PLAN["runs"]}
# Snakemake's own marks, for each report and tier. What is up to date, dtfn knows: a mark whose
# result is gone is taken away.
HERE = hashlib.sha256(str(Path(PLAN["reports"]).resolve()).encode()).hexdigest()[:8]
for run in RUNS.values():
    run["done"] = f".snakemake/done/{HERE}-{TIER}/{run['name']}-{run['key'][:16]}"
    # Only who starts the jobs: a job would take the mark of another that has just ended.
    if not run["up_to_date"] and workflow.is_main_process:
        Path(run["done"]).unlink(missing_ok=True)


rule all:
    localrule: True
    input:
        [run["done"] for run in RUNS.values()],
    shell:
        "{PROGRAM} report --reports {REPORTS}"


for run in RUNS.values():

    rule:
        name:
            run["name"]
        input:
            [RUNS[name]["done"] for name in run["after"]],
        output:
            run["done"],
        params:
            name=run["name"],
        threads: run["resources"]["threads"]
        resources:
            mem_mb=run["resources"]["memory_mb"],
            runtime=run["resources"]["minutes"],
            **({"gpu": run["resources"]["gpu"]} if run["resources"]["gpu"] else {}),
        shell:
            "OMP_NUM_THREADS={threads} {PROGRAM} reproduce {OPTIONS} --only {params.name:q}"
            " && touch {output}"
