//! Whole lines of tasks over the doubles of [`crate::testing`].

mod faults;
mod finding;
mod keeping;
mod kept_plugins;
mod line;
mod parts;
mod restoring;
