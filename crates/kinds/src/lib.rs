//! One folder per kind: defaults, validation, strategy and table columns; and the Scheme they are served from.
