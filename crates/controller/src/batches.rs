//! Many similar writes at once, few first: when the first one is refused (a quota, a bad template), the rest is not even tried.

use futures::future::join_all;

/// Runs `write` for each of `items`, in batches of 1, 2, 4 and so on, each batch at once; stops after the first batch in which one
/// failed. Returns how many worked, and the first error.
/// Source: Kubernetes 1.36, `slowStartBatch`.
pub async fn slow_start<T, E, F>(items: impl IntoIterator<Item = T>, mut write: impl FnMut(T) -> F) -> (usize, Result<(), E>)
where
    F: Future<Output = Result<(), E>>,
{
    let mut items = items.into_iter();
    let mut batch = 1;
    let mut succeeded = 0;
    loop {
        let writes: Vec<_> = items.by_ref().take(batch).map(&mut write).collect();
        if writes.is_empty() {
            return (succeeded, Ok(()));
        }
        let mut failure = None;
        for result in join_all(writes).await {
            match result {
                Ok(()) => succeeded += 1,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if let Some(error) = failure {
            return (succeeded, Err(error));
        }
        batch = batch.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn nothing_more_is_tried_after_a_failed_batch() {
        let mut tried = Vec::new();
        let run = slow_start(0..100, |number| {
            tried.push(number);
            async move { if number == 4 { Err("refused") } else { Ok(()) } }
        });
        assert_eq!(run.now_or_never(), Some((6, Err("refused"))));
        assert_eq!(tried, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(slow_start(0..5, |_| async { Ok::<_, ()>(()) }).now_or_never(), Some((5, Ok(()))));
    }
}
