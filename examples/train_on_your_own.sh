#!/bin/sh
# Train on a TSV of your own, evaluate the result, export it and score a file with it. In the repository's root:
#   sh examples/train_on_your_own.sh
# 30 pairs teach a model nothing: put your own into the file that train_on_your_own.yaml names. Rows that cannot be used are
# reported before the training starts.
set -eu
bertnli train examples/train_on_your_own.yaml "$@"
bertnli eval runs/own/model examples/train_on_your_own.tsv --premise note --hypothesis claim --label verdict
bertnli export runs/own/model runs/own/bundle
bertnli score runs/own/bundle examples/train_on_your_own.tsv runs/own/scores.tsv --premise note --hypothesis claim --label verdict
