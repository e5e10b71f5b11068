#!/usr/bin/env bash
# A Slurm cluster of this one machine, for tests: as root, without systemd or a database.
# slurm-up.sh DIR starts it with its state in DIR; slurm-up.sh --stop DIR ends what it started.
# It pretends to have 4 CPUs and a GPU, whatever the machine has. Needs slurm-wlm and munge.
set -euo pipefail

MARK="# made by wesemu's tests"
CONFIG=/etc/slurm/slurm.conf # munge and Slurm take no other place without more settings

stop() {
  for daemon in slurmd slurmctld munged; do
    [ -s "$1/$daemon.pid" ] || continue
    pid=$(cat "$1/$daemon.pid")
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$daemon" ] && kill "$pid"
    for _ in $(seq 100); do
      grep -q '^State:[[:space:]]*[^Z[:space:]]' "/proc/$pid/status" 2>/dev/null || break
      sleep 0.05
    done
  done
  if head -1 "$CONFIG" 2>/dev/null | grep -qxF "$MARK"; then
    rm -f "$CONFIG" /etc/slurm/gres.conf
  fi
}

start() {
  mkdir -p "$1"/{state,spool} /etc/slurm
  host=$(uname -n | cut -d. -f1)
  memory=$(awk '/^MemTotal/ { print int($2 / 1024 * 0.9) }' /proc/meminfo)
  cat >"$CONFIG" <<END
$MARK
ClusterName=wesemu
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$1/state
SlurmdSpoolDir=$1/spool
SlurmctldPidFile=$1/slurmctld.pid
SlurmdPidFile=$1/slurmd.pid
SlurmctldLogFile=$1/slurmctld.log
SlurmdLogFile=$1/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=128
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MinJobAge=300
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=$memory Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
  echo "NodeName=$host Name=gpu File=/dev/null" >/etc/slurm/gres.conf
  if ! munge -n >/dev/null 2>&1; then
    mkdir -p /run/munge /var/log/munge /var/lib/munge /etc/munge
    [ -s /etc/munge/munge.key ] || (umask 077 && head -c 128 /dev/urandom >/etc/munge/munge.key)
    chown -R munge:munge /run/munge /var/log/munge /var/lib/munge /etc/munge
    chmod 0755 /run/munge
    setpriv --reuid=munge --regid=munge --init-groups munged
    cp /run/munge/munged.pid "$1/munged.pid"
  fi
  slurmctld
  slurmd -N "$host"
  for _ in $(seq 200); do
    [ "$(sinfo -h -o %T 2>/dev/null)" = idle ] && exit 0
    sleep 0.1
  done
  tail -n 20 "$1"/*.log >&2
  exit 1
}

case ${1:-} in
  --stop) stop "$2" ;;
  ?*)
    if [ -e "$CONFIG" ] && ! head -1 "$CONFIG" | grep -qxF "$MARK"; then
      echo "$CONFIG belongs to another cluster; it is left alone" >&2
      exit 3
    fi
    start "$1"
    ;;
  *) echo "usage: slurm-up.sh [--stop] DIR" >&2 && exit 2 ;;
esac
