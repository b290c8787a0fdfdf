//! Changes by others against changes of our own.
