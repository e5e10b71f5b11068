# Sourced by stages: the folders $support and $CI_WORK, and cannot REASON. At the end of the stage
# clean_up is called, which the stage may define.
support=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
own_folder=
if [ -z "${CI_WORK:-}" ]; then # without .ci/run
  CI_WORK=$(mktemp -d "${TMPDIR:-/tmp}/wesemu-ci-XXXXXX")
  own_folder=$CI_WORK
fi
export CI_WORK
clean_up() { :; }
trap 'clean_up; [ -z "$own_folder" ] || rm -rf --one-file-system "$own_folder"' EXIT

# Where the stage cannot run: fails if CI is set, else skips it.
cannot() {
  echo "skipped: $1" >&2
  [ -z "${CI:-}" ] || exit 1
  exit 0
}
