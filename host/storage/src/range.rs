//! What a range of bytes means: exactly these bytes, or an error. Endpoints differ (S3 shortens a range that reaches
//! past the end), and a caller that asks for bytes which a manifest names must never get fewer.

use std::ops::Range;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use redkeep_core::storage::{StorageError, StorageErrorKind};

/// The bytes to read of an object of `size` bytes.
///
/// # Errors
/// `Invalid` for a range that ends before it begins, `Damaged` for one that reaches past the end.
pub(crate) fn check_range(address: &str, range: Option<Range<u64>>, size: u64) -> Result<Range<u64>, StorageError> {
    let Some(range) = range else { return Ok(0..size) };
    check_order(address, &range)?;
    if range.end > size {
        return Err(too_short(address, &range, size));
    }
    Ok(range)
}

/// Refuses a range that ends before it begins.
pub(crate) fn check_order(address: &str, range: &Range<u64>) -> Result<(), StorageError> {
    if range.end < range.start {
        return Err(StorageError::new(
            StorageErrorKind::Invalid,
            format!("failed to read {address}: the range {}..{} ends before it begins", range.start, range.end),
        ));
    }
    Ok(())
}

/// An object that ends before the range does.
pub(crate) fn too_short(address: &str, range: &Range<u64>, size: u64) -> StorageError {
    StorageError::new(
        StorageErrorKind::Damaged,
        format!("failed to read bytes {} to {} of {address}: it has {size}", range.start, range.end),
    )
}

/// Turns a body that ends before `expected` bytes into an error item, and refuses bytes beyond them.
pub(crate) fn exactly<S>(stream: S, address: String, expected: u64) -> BoxStream<'static, Result<Bytes, StorageError>>
where
    S: futures::Stream<Item = Result<Bytes, StorageError>> + Send + 'static,
{
    let state = (Box::pin(stream), address, expected, false);
    futures::stream::unfold(state, move |(mut stream, address, left, ended)| async move {
        if ended {
            return None;
        }
        match stream.next().await {
            Some(Ok(data)) if data.len() as u64 <= left => {
                let left = left - data.len() as u64;
                Some((Ok(data), (stream, address, left, false)))
            }
            Some(Ok(_)) => {
                let error = StorageError::new(
                    StorageErrorKind::Damaged,
                    format!("failed to read {address}: more bytes came than it has"),
                );
                Some((Err(error), (stream, address, left, true)))
            }
            Some(Err(error)) => Some((Err(error), (stream, address, left, true))),
            None if left > 0 => {
                let act = format!("failed to read {address}: the connection ended {left} bytes too early");
                Some((Err(StorageError::new(StorageErrorKind::Unreachable, act)), (stream, address, left, true)))
            }
            None => None,
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn a_body_that_ends_early_ends_in_an_error() {
        let parts = stream::iter([Ok(Bytes::from_static(b"abc"))]);
        let items: Vec<_> = exactly(parts, "x".to_owned(), 4).collect().await;
        assert_eq!(items.len(), 2);
        assert_eq!(items[1].as_ref().unwrap_err().kind, StorageErrorKind::Unreachable);
    }

    #[tokio::test]
    async fn a_body_that_goes_on_too_long_ends_in_an_error() {
        let parts = stream::iter([Ok(Bytes::from_static(b"abc"))]);
        let items: Vec<_> = exactly(parts, "x".to_owned(), 2).collect().await;
        assert_eq!(items.last().unwrap().as_ref().unwrap_err().kind, StorageErrorKind::Damaged);
    }

    #[test]
    fn a_range_past_the_end_is_damage_and_a_reversed_one_is_a_mistake() {
        assert_eq!(check_range("x", Some(0..5), 4).unwrap_err().kind, StorageErrorKind::Damaged);
        #[expect(clippy::reversed_empty_ranges, reason = "this is the case under test")]
        let reversed = 3..2;
        assert_eq!(check_range("x", Some(reversed), 4).unwrap_err().kind, StorageErrorKind::Invalid);
        assert_eq!(check_range("x", Some(4..4), 4).unwrap(), 4..4);
        assert_eq!(check_range("x", None, 4).unwrap(), 0..4);
    }
}
