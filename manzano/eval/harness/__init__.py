"""The plug-in of lmms-eval: `lmms_eval --model manzano --model_args pretrained=DIR`."""
