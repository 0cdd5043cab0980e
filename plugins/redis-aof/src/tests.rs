//! Tests of the whole method: on real servers, and on made-up input.

mod host;
mod live;
mod made_up;
mod real;
mod until;
