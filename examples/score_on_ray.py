"""Score a folder of files over a Ray cluster, from Python: each file keeps its name, its rows and their order.

    ray start --head                                      # and on other nodes: ray start --address HOST:PORT
    python examples/score_on_ray.py bundle parts scores auto

The address is `auto`, `HOST:PORT`, or `local` for a cluster that lasts as long as the call. Every node must see the
bundle and the folders under the same path, or they are URLs (docs/files.md). If anything is killed, the same command
continues.
"""

import sys

from bertnli_export.distributed import find_partitions, score_partitions

bundle, parts, scores, address = sys.argv[1:]
partitions = find_partitions(parts, scores)
summary = score_partitions(bundle, partitions, scores, address, progress=lambda done, note: print(done, note))
print(f"{summary['rows']} rows of {summary['partitions']} files, {summary['errors']} of them with an error")
for partition in partitions:
    print(partition.output)
