//! What the author of a redkeep method plugin depends on.
