#!/bin/sh
# Train on a TSV of your own, look at the result, export it and score a file with it. In the repository's root:
#   sh examples/train_on_your_own.sh
# 30 pairs teach a model nothing: put your own in the file that train_on_your_own.yaml names. What is wrong with them is
# said before the training starts, row by row.
set -eu
bertnli train examples/train_on_your_own.yaml "$@"
bertnli eval runs/own/model examples/train_on_your_own.tsv --premise note --hypothesis claim --label verdict
bertnli export runs/own/model runs/own/bundle
bertnli score runs/own/bundle examples/train_on_your_own.tsv runs/own/scores.tsv --premise note --hypothesis claim --label verdict
