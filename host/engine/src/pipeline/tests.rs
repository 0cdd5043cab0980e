//! What holds of both ways together.

mod capturing;
mod damage;
mod double;
mod encryption;
mod interop;
mod round_trip;
mod support;
