//! Tests of the whole: command line, formats, crashes, servers of every version.
