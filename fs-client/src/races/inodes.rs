//! Look-ups against forgets.
