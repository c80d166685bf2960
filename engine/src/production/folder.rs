//! What stands in the data folder beside stores and journal, for people and for the command line:
//! the configuration, the token, and the address of the server that runs there.
//!
//! Invariant: the token is never readable by another user, not even for a moment.

use std::fmt;
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The configuration, unless another is named.
pub const CONFIG_FILE: &str = "tidelock.toml";
/// The token.
pub const TOKEN_FILE: &str = "token";
/// Where the running server answers.
pub const ADDRESS_FILE: &str = "address";
/// The secret that this coordinator and its peers share.
pub const PEER_TOKEN_FILE: &str = "peer-token";

// Longer files are not ours.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
const TOKEN_BYTES_MIN: usize = 16;

/// A file of the data folder that cannot be used.
#[derive(Debug)]
pub struct FileError {
    /// Which.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: String,
}

impl FileError {
    /// Of this file.
    pub fn new(path: &Path, problem: impl ToString) -> Self {
        FileError { path: path.to_owned(), problem: problem.to_string() }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.problem)
    }
}

impl std::error::Error for FileError {}

/// Makes the data folder where it is missing, closed to other users.
pub fn make(folder: &Path) -> Result<(), FileError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| {
        FileError::new(
            folder,
            format!("the data folder cannot be made ({error}); choose another with --data"),
        )
    })
}

/// Reads a text file of bounded length.
pub fn read_text(path: &Path) -> Result<String, FileError> {
    let file = std::fs::File::open(path).map_err(|error| FileError::new(path, error))?;
    let mut text = String::new();
    let mut bounded = file.take(FILE_BYTES_MAX + 1);
    bounded.read_to_string(&mut text).map_err(|error| FileError::new(path, error))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(FileError::new(path, format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Writes a file that is not there yet; leaves one that is. True when it was written.
pub fn write_new(path: &Path, text: &str, mode: u32) -> Result<bool, FileError> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(FileError::new(path, error)),
    };
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // Half a file would be taken for a whole one at the next start.
        let _ = std::fs::remove_file(path);
        FileError::new(path, error)
    })?;
    Ok(true)
}

/// A secret of the folder; drawn from `random` and written when there is none.
pub fn token(
    folder: &Path,
    name: &str,
    mut random: impl FnMut() -> u64,
) -> Result<String, FileError> {
    let path = folder.join(name);
    let fresh: String = (0..4).map(|_| format!("{:016x}", random())).collect();
    if write_new(&path, &format!("{fresh}\n"), 0o600)? {
        return Ok(fresh);
    }
    close_to_others(&path)?;
    let token = read_text(&path)?.trim().to_owned();
    if token.len() < TOKEN_BYTES_MIN || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(FileError::new(
            &path,
            format!(
                "this is no token: at least {TOKEN_BYTES_MIN} printable characters without spaces \
                 are needed; remove the file to have a new one made"
            ),
        ));
    }
    Ok(token)
}

/// Has nobody but this user read a secret.
pub fn close_to_others(path: &Path) -> Result<(), FileError> {
    let failed = |error| FileError::new(path, error);
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(file = %path.display(), "other users could read the secret; closing it to them");
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
    }
    Ok(())
}

/// A text file's contents; `None`: it is not there.
pub fn read_if_there(path: &Path) -> Result<Option<String>, FileError> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::new(path, error)),
        Ok(_) => read_text(path).map(Some),
    }
}

/// Writes a file in place of the one that is there. Renamed into place, so that nobody meets half
/// of it.
pub fn replace(path: &Path, text: &str) -> Result<(), FileError> {
    let beside = path.with_extension("new");
    let written = std::fs::write(&beside, text);
    written
        .and_then(|()| std::fs::rename(&beside, path))
        .map_err(|error| FileError::new(path, error))
}

/// The same, durable when it returns and closed to other users.
pub fn replace_durably(path: &Path, text: &str) -> Result<(), FileError> {
    let beside = path.with_extension("new");
    let written = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        // The new name is durable only once its folder is.
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::File::open(folder)?.sync_all()
    };
    written().map_err(|error| FileError::new(path, error))
}

/// Tells the command line where the server answers.
pub fn write_address(folder: &Path, url: &str) -> Result<(), FileError> {
    replace(&folder.join(ADDRESS_FILE), &format!("{url}\n"))
}

/// The server no longer answers.
pub fn remove_address(folder: &Path) {
    // One that stays behind only makes a later client say that nobody answers there.
    let _ = std::fs::remove_file(folder.join(ADDRESS_FILE));
}
