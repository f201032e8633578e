#!/usr/bin/env bash
# Brings images into the node of the running cluster: tests/cluster/load.sh IMAGE.tar… A name that is there already then means the new one.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

for image; do
    # By its content: the node sees another /run and /var/lib than we do.
    in_node ctr -n k8s.io images import - <"$image" >/dev/null
done
