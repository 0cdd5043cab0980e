//! Whole lines of tasks over the doubles of [`crate::testing`].

mod faults;
mod keeping;
mod line;
mod restoring;
