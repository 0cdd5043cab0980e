//! `artifacts`: this backup's own artifacts. No grant is needed for them: they are what a method is for.

use redkeep_core::method::{MethodError, code};
use std::sync::Arc;
use wasmtime::component::Resource;

use crate::bindings::redkeep::plugin::{artifacts, types};
use crate::failure::HostError;
use crate::handles::{OpenArtifact, SinkHandle, SourceHandle};
use crate::state::{Export, State};
use crate::text::printable;

/// The longest name, in bytes: with suffixes for compression and encryption it must fit file systems' 255.
const MAX_NAME: usize = 200;

/// Letters, digits, `.`, `_` and `-`, not beginning with `.` or `-`: safe in every storage and every shell.
fn check_name(name: &str) -> Result<(), MethodError> {
    let fits = !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if fits {
        return Ok(());
    }
    let message =
        format!("{:?} is not a name for an artifact: letters, digits, '.', '_' and '-'", printable(name, MAX_NAME));
    Err(MethodError::new(code::REFUSED, message))
}

impl artifacts::Host for State {
    async fn create(
        &mut self,
        name: String,
        attributes: Vec<types::Attribute>,
    ) -> Result<Resource<SinkHandle>, HostError> {
        let _host = self.enter();
        let artifacts = Arc::clone(&self.run()?.artifacts);
        if self.export != Export::Capture {
            let message = format!("artifacts are written by capture, not by {}", self.export.name());
            return Err(MethodError::new(code::DENIED, message).into());
        }
        check_name(&name)?;
        self.take_name(&name)?;
        let place = self.place()?;
        let attributes = self.attributes(attributes, 0)?;
        let artifact = OpenArtifact { attributes: attributes.len(), _place: place };
        let sink = artifacts.create(&name, attributes).await?;
        self.push_artifact(sink, artifact)
    }

    async fn open(&mut self, name: String) -> Result<Resource<SourceHandle>, HostError> {
        let _host = self.enter();
        let artifacts = Arc::clone(&self.run()?.artifacts);
        check_name(&name)?;
        let place = self.place()?;
        let source = artifacts.open(&name).await?;
        self.push_stored(source, place)
    }

    async fn list(&mut self) -> Result<Vec<types::Artifact>, HostError> {
        let _host = self.enter();
        Ok(self.run()?.artifacts.list().await?.into_iter().map(Into::into).collect())
    }

    async fn facts(&mut self) -> Result<Vec<types::Attribute>, HostError> {
        let _host = self.enter();
        Ok(self.run()?.artifacts.facts().await?.into_iter().map(Into::into).collect())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::check_name;

    #[rstest]
    #[case("")]
    #[case(".")]
    #[case("..")]
    #[case(".hidden")]
    #[case("-rf")]
    #[case("a/b")]
    #[case("a\\b")]
    #[case("a\0")]
    #[case("käse")]
    #[case("a b")]
    fn a_name_that_is_not_safe_everywhere_is_refused(#[case] name: &str) {
        assert_eq!(check_name(name).unwrap_err().code, "refused");
    }

    #[test]
    fn usual_names_pass_up_to_the_longest() {
        for name in ["dump.rdb", "appendonly.aof.tar", "A_1-b", &"x".repeat(200)] {
            check_name(name).unwrap();
        }
        check_name(&"x".repeat(201)).unwrap_err();
    }
}
