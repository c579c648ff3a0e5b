//! Callers: threads that each send requests one after the other on a connection of their own.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};

use crate::scripted::{Answer, Connection};

/// Sends all bodies, and gives how many were answered a second, and the answers in the order of the bodies.
pub(super) fn send_all(
    socket: &Path,
    path: &str,
    callers: usize,
    bodies: &[Vec<u8>],
) -> Result<(f64, Vec<Answer>)> {
    let next = AtomicUsize::new(0);
    let answers = Mutex::new(Vec::with_capacity(bodies.len()));
    let connections: Vec<Connection> =
        (0..callers).map(|_| Connection::open(socket)).collect::<Result<_>>()?;
    let call = |mut connection: Connection| -> Result<()> {
        let mut mine = Vec::new();
        while let Some(place) = Some(next.fetch_add(1, Ordering::Relaxed))
            && let Some(body) = bodies.get(place)
        {
            let answer = connection.exchange("POST", path, body)?;
            ensure!(
                answer.status == 200,
                "status {}: {}",
                answer.status,
                String::from_utf8_lossy(&answer.body)
            );
            mine.push((place, answer));
        }
        answers.lock().map_err(|_| anyhow!("a caller panicked"))?.extend(mine);
        Ok(())
    };
    let begin = Instant::now();
    thread::scope(|scope| {
        let callers: Vec<_> =
            connections.into_iter().map(|connection| scope.spawn(|| call(connection))).collect();
        callers
            .into_iter()
            .try_for_each(|caller| caller.join().unwrap_or_else(|_| Err(anyhow!("a caller panicked"))))
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    let mut answers = answers.into_inner().map_err(|_| anyhow!("a caller panicked"))?;
    answers.sort_by_key(|(place, _)| *place);
    Ok((bodies.len() as f64 / seconds, answers.into_iter().map(|(_, answer)| answer).collect()))
}
