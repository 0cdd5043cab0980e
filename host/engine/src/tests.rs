//! Whole lines of tasks over the doubles of [`crate::testing`].

mod faults;
mod keeping;
mod kept_plugins;
mod line;
mod restoring;
