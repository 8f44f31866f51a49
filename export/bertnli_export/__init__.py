"""A trained classifier to scores: checkpoint -> graph -> bundle -> session -> file of scores.

`build.export_bundle` makes a bundle of a checkpoint (with torch and onnx). Everything else needs the bundle only.
"""
