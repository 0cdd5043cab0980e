//! Instances with real servers on loopback; the API server and the operator are played by the test.

mod edges;
mod fencing;
mod hand_over;
mod life;
mod rig;
