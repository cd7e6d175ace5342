# The suite on any machines that Snakemake can reach. What runs, after what, and what it takes is
# read from `dtfn plan`; what a run does is `dtfn reproduce --only`. Nothing is decided here.
#
#   pip install -e '.[notebook,batch]'
#   snakemake -c2                                      # here, two at a time
#   snakemake --profile profiles/slurm --config tier=bench
#
# --config tier=smoke|demo|bench|paper  reports=FOLDER  plan=FILE  dtfn=PROGRAM
import json
import shlex
import subprocess

PROGRAM = shlex.quote(config.get("dtfn", "dtfn"))
REPORTS = shlex.quote(config.get("reports", "reports"))
OPTIONS = f"--tier {config.get('tier', 'demo')} --reports {REPORTS}"
if "plan" in config:
    OPTIONS += f" --plan {shlex.quote(config['plan'])}"

RUNS = {
    run["name"]: run
    for run in json.loads(
        subprocess.check_output(f"{PROGRAM} plan {OPTIONS} --json", shell=True, text=True)
    )["runs"]
}
# Snakemake's own marks: what is up to date, dtfn itself knows and passes over in seconds.
for run in RUNS.values():
    run["done"] = f".snakemake/done/{run['name']}-{run['key'][:16]}"


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
