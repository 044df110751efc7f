"""Pure functions by topic: tensors in; a 0-d tensor or an Estimate out; Undefined raised where there is no value."""
