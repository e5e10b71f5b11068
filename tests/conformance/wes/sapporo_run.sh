#!/usr/bin/env bash
# sapporo_run.sh RUN_DIRECTORY: runs a workflow of sapporo with the cwltool on PATH. sapporo's own
# run.sh needs docker and jq.
set -m # cwltool gets a process group of its own
cd "$1" || exit 1
engine=
# times as its run.sh writes them
end() { # CODE STATE
  echo "$1" >exit_code.txt
  date -u +%Y-%m-%dT%H:%M:%S >end_time.txt
  echo "$2" >state.txt
  exit "$1"
}
cancel() {
  echo CANCELING >state.txt
  if [ -n "$engine" ]; then
    kill -- "-$engine"
    wait "$engine"
  fi
  end 138 CANCELED
}
trap cancel USR1
echo $$ >run.pid
echo RUNNING >state.txt
workflow=$(python3 -c 'import json; print(json.load(open("run_request.json"))["workflow_url"])')
(cd exe && exec cwltool --no-container --outdir ../outputs "$workflow" workflow_params.json) \
  >stdout.log 2>stderr.log &
engine=$!
wait "$engine" || end $? EXECUTOR_ERROR
sapporo-cli dump-outputs "$1" || end 1 SYSTEM_ERROR
end 0 COMPLETE
