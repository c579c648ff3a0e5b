//! Credentials that are looked at anew for each connection, so that they can be replaced without a restart.

use std::sync::{Arc, Mutex, PoisonError};

use super::credentials::Fingerprint;
use super::{Credentials, CredentialsError, Files};

/// The credentials in files, as they were when a connection last looked.
#[derive(Debug)]
pub struct Rotating {
    files: Files,
    /// Held while the files are read, so that an older reading never takes the place of a newer one.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    fingerprint: Fingerprint,
    credentials: Arc<Credentials>,
    /// What was wrong with the files the last time, so that it is logged once.
    complaint: Option<String>,
}

impl Rotating {
    /// The credentials in `files`.
    ///
    /// # Errors
    /// [`CredentialsError`]: there are none to begin with.
    pub fn open(files: Files) -> Result<Rotating, CredentialsError> {
        let contents = files.contents()?;
        let credentials = Arc::new(contents.parse(&files)?);
        let state = State { fingerprint: contents.fingerprint(), credentials, complaint: None };
        Ok(Rotating { files, state: Mutex::new(state) })
    }

    /// Where they are.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// The credentials for the next connection: those in the files, or the last that were good. Reads the disk.
    pub fn look(&self) -> Arc<Credentials> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match self.changed(&state) {
            Ok(None) => state.complaint = None,
            Ok(Some((fingerprint, credentials))) => {
                tracing::info!(certificate = %credentials.certificate(), "a new certificate is in use");
                *state = State { fingerprint, credentials: Arc::new(credentials), complaint: None };
            }
            Err(error) => {
                let complaint = error.to_string();
                if state.complaint.as_ref() != Some(&complaint) {
                    tracing::error!(error = complaint, "the old certificate stays in use");
                    state.complaint = Some(complaint);
                }
            }
        }
        state.credentials.clone()
    }

    fn changed(&self, state: &State) -> Result<Option<(Fingerprint, Credentials)>, CredentialsError> {
        let contents = self.files.contents()?;
        let fingerprint = contents.fingerprint();
        if fingerprint == state.fingerprint {
            return Ok(None);
        }
        Ok(Some((fingerprint, contents.parse(&self.files)?)))
    }
}
