//! The built-in types, one table of facts about their fields, and the codecs that follow from it.
