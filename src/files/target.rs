//! Where things go in a volume, as `cp` decides it.

use super::Session;
use crate::answer::{Failure, FailureKind};
use crate::model::{GivenPath, Name, VolPath};

/// A place in a volume as somebody named it.
#[derive(Clone, Debug)]
pub struct GivenTarget {
    /// The path.
    pub path: GivenPath,
    /// It ended in a slash: a directory is meant, whether there is one or not.
    pub as_dir: bool,
}

/// Where things go.
#[derive(Debug)]
pub struct Target {
    /// The path itself.
    pub path: VolPath,
    /// Things go into it under their own names.
    into: bool,
    /// It is to be a directory and is not there.
    pub make: bool,
}

impl Target {
    /// As `cp` decides it; but missing directories are made.
    ///
    /// # Errors
    /// Several things cannot go to one file.
    pub async fn look(session: &Session, given: &GivenTarget, sources: usize) -> Result<Target, Failure> {
        let path = session.path(&given.path).await?;
        let there = session.find(&path).await?;
        let is_dir = there.as_ref().is_some_and(|entry| entry.is_dir());
        let wants_dir = given.as_dir || sources > 1;
        if wants_dir && there.is_some() && !is_dir {
            return Err(Failure::new(
                FailureKind::Refused,
                format!("{path}: is not a directory"),
            ));
        }
        Ok(Target {
            path,
            into: is_dir || wants_dir,
            make: wants_dir && there.is_none(),
        })
    }

    /// Where a source of that name goes; one whose content is meant goes where the target itself is.
    pub fn path_of(&self, name: Option<Name>) -> VolPath {
        match name {
            Some(name) if self.into => self.path.join(&name),
            _ => self.path.clone(),
        }
    }

    /// Where bytes go that have no name.
    ///
    /// # Errors
    /// [`FailureKind::Usage`] when the target is a directory.
    pub fn path_of_bytes(&self) -> Result<VolPath, Failure> {
        if !self.into {
            return Ok(self.path.clone());
        }
        let text = format!("{}: is a directory", self.path);
        Err(Failure::new(FailureKind::Usage, text).hint("name the file that standard input is to become"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_added_to_directories_only() {
        let path = VolPath::parse(b"t").unwrap();
        let target = |into| Target {
            path: path.clone(),
            into,
            make: false,
        };
        let name = || Some(Name::new(b"x").unwrap());
        assert_eq!(target(true).path_of(name()).to_string(), "/t/x");
        assert_eq!(target(false).path_of(name()).to_string(), "/t");
        assert_eq!(target(true).path_of(None).to_string(), "/t");
        assert_eq!(target(false).path_of_bytes().unwrap().to_string(), "/t");
        assert_eq!(target(true).path_of_bytes().unwrap_err().kind, FailureKind::Usage);
    }
}
