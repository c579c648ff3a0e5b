//! `assent key`: keys of requesters and voters.

use std::path::{Path, PathBuf};

use assent_consensus::jwk::PublicKey;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::voter::key_file::{self, KeyFile, Protection};
use crate::voter::secret::SecretSource;
use crate::voter::{KeySource, PASSPHRASE_CREDENTIAL, Signer, Unlock, token};

use super::failure::Failure;
use super::screen::{Screen, quoted};
use super::settings;

/// The most entries of a directory that are looked at.
const LIST_LIMIT: usize = 10_000;

#[derive(Subcommand)]
pub(super) enum KeyCommand {
    /// Make a P-256 key in a new file (PKCS#8 PEM, mode 0600, encrypted), and its JWK beside it
    Generate(Generate),
    /// Show a key's public half: JWK, thumbprint, and the line for a policy or process
    Show(Show),
    /// List the keys of a directory, or of a token
    List(List),
}

#[derive(Args)]
pub(super) struct Generate {
    /// The file to make; one that exists is never overwritten
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Take the passphrase from this file (one line, readable by you alone)
    #[arg(long, value_name = "FILE", conflicts_with = "no_passphrase")]
    passphrase_file: Option<PathBuf>,
    /// Do not encrypt the file: for services on machines of their own
    #[arg(long)]
    no_passphrase: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Show {
    /// A key file, a JWK, or a `pkcs11:` URI such as `pkcs11:token=LABEL;object=KEY`
    key: KeySource,
    #[command(flatten)]
    unlock: UnlockArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct List {
    /// A directory, or the `pkcs11:` URI of a token [default: the directory of the configuration]
    place: Option<KeySource>,
    /// The PKCS#11 module, unless the URI has `module-path`
    #[arg(long, value_name = "PATH")]
    module: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What opening a key may need.
#[derive(Args, Clone, Default)]
pub(super) struct UnlockArgs {
    /// Take the key file's passphrase from this file (one line, readable by you alone)
    #[arg(long, value_name = "FILE")]
    pub(super) passphrase_file: Option<PathBuf>,
    /// Take the token's PIN from this file (one line, readable by you alone); it is tried once
    #[arg(long, value_name = "FILE")]
    pub(super) pin_file: Option<PathBuf>,
    /// The PKCS#11 module, unless the URI has `module-path`
    #[arg(long, value_name = "PATH")]
    pub(super) module: Option<PathBuf>,
}

impl From<UnlockArgs> for Unlock {
    fn from(UnlockArgs { passphrase_file, pin_file, module }: UnlockArgs) -> Unlock {
        Unlock { passphrase_file, pin_file, module }
    }
}

pub(super) fn run(command: KeyCommand) -> Result<(), Failure> {
    match command {
        KeyCommand::Generate(arguments) => generate(&arguments),
        KeyCommand::Show(arguments) => show(arguments),
        KeyCommand::List(arguments) => list(&arguments),
    }
}

fn generate(arguments: &Generate) -> Result<(), Failure> {
    let screen = Screen::new(arguments.json);
    let out = &arguments.out;
    if out.extension().is_some_and(|extension| extension == "jwk") {
        return Err(Failure::usage(
            "the private key's file must not end in `.jwk`, which is for its public half",
        ));
    }
    // Nobody should think up a passphrase for a file that cannot be made.
    if out.symlink_metadata().is_ok() {
        return Err(key_file::KeyFileError::Exists(out.clone()).into());
    }
    let passphrase = match arguments.no_passphrase {
        true => None,
        false => {
            let source = SecretSource {
                file: arguments.passphrase_file.clone(),
                credential: PASSPHRASE_CREDENTIAL,
                option: "--passphrase-file",
            };
            Some(source.read_new("New passphrase: ", "The same again: ")?)
        }
    };
    let key = KeyFile::generate()?;
    let protection = passphrase.as_ref().map_or(Protection::None, Protection::Passphrase);
    let public = key.write_new(out, &protection)?;
    screen.line(format!("private key  {}", quoted(out.display())))?;
    screen.line(format!("public key   {}", quoted(public.display())))?;
    show_public(&screen, key.public_key())?;
    let mut result = describe(key.public_key())?;
    result["private_key_file"] = json!(out.to_string_lossy());
    result["public_key_file"] = json!(public.to_string_lossy());
    result["encrypted"] = json!(passphrase.is_some());
    screen.result(&result)
}

fn show(arguments: Show) -> Result<(), Failure> {
    let screen = Screen::new(arguments.json);
    let key = arguments.key.public_key(&arguments.unlock.into())?;
    show_public(&screen, &key)?;
    screen.result(&describe(&key)?)
}

fn list(arguments: &List) -> Result<(), Failure> {
    let screen = Screen::new(arguments.json);
    let mut listed = Vec::new();
    match &arguments.place {
        Some(KeySource::Token(uri)) => {
            let uri = uri.parse().map_err(Failure::usage)?;
            for key in token::list(&uri, arguments.module.as_deref())? {
                let id: String = key.id.iter().map(|byte| format!("%{byte:02x}")).collect();
                screen.line(format!(
                    "{}  token {}, object {}, id {id}",
                    key.public_key.thumbprint(),
                    quoted(&key.token),
                    quoted(&key.object)
                ))?;
                let mut entry = describe(&key.public_key)?;
                entry["token"] = json!(key.token);
                entry["object"] = json!(key.object);
                entry["id"] = json!(id);
                listed.push(entry);
            }
        }
        Some(KeySource::File(directory)) => list_directory(directory, &screen, &mut listed)?,
        None => {
            let path = settings::default_path().ok_or_else(|| {
                Failure::usage("which directory? name one, since there is no home directory")
            })?;
            list_directory(path.parent().unwrap_or(Path::new(".")), &screen, &mut listed)?;
        }
    }
    if listed.is_empty() {
        screen.line("no keys; `assent key generate --out FILE` makes one")?;
    }
    screen.result(&listed)
}

fn list_directory(directory: &Path, screen: &Screen, listed: &mut Vec<Value>) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::failed(format!("cannot list the directory `{}`: {error}", directory.display()))
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)?.take(LIST_LIMIT) {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "jwk") {
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        // Any JWK may end so; only ours are listed.
        let Ok(Some(key)) = key_file::read_public(&path) else { continue };
        let private = Some(path.with_extension("pem")).filter(|path| path.exists());
        let what = if private.is_some() { "private" } else { "public half only" };
        let path = private.as_ref().unwrap_or(&path);
        screen.line(format!("{}  {} ({what})", key.thumbprint(), quoted(path.display())))?;
        let mut entry = describe(&key)?;
        entry["file"] = json!(path.to_string_lossy());
        entry["private"] = json!(private.is_some());
        listed.push(entry);
    }
    Ok(())
}

fn show_public(screen: &Screen, key: &PublicKey) -> Result<(), Failure> {
    screen.line(format!("thumbprint   {}", key.thumbprint()))?;
    screen.line(format!("JWK          {}", jwk(key)?))?;
    screen.line("in a policy or process:")?;
    screen.line(toml_line(key)?)
}

fn describe(key: &PublicKey) -> Result<Value, Failure> {
    Ok(json!({
        "thumbprint": key.thumbprint(),
        "jwk": serde_json::to_value(key).map_err(Failure::failed)?,
        "toml": toml_line(key)?,
    }))
}

fn jwk(key: &PublicKey) -> Result<String, Failure> {
    serde_json::to_string(key).map_err(Failure::failed)
}

/// The line that stands in a policy's `[[voter]]` or a process's `[[requester]]`.
fn toml_line(key: &PublicKey) -> Result<String, Failure> {
    let jwk = serde_json::to_value(key).map_err(Failure::failed)?;
    let member = |name: &str| jwk[name].as_str().unwrap_or_default().to_owned();
    Ok(format!(r#"key = {{ kty = "EC", crv = "P-256", x = "{}", y = "{}" }}"#, member("x"), member("y")))
}
