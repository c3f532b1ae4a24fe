//! `weir token`: makes a token for the admin API. Weir keeps its hash only, so that a file that leaks gives nothing
//! away.

use super::client::Failure;
use rand::TryRng;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::process::ExitCode;

/// A token that is read is at most this long.
const TOKEN_BYTES: u64 = 4096;

#[derive(Clone, Debug, clap::Args)]
pub struct TokenArgs {
    /// Read a token from standard input and print its hash only
    #[arg(long)]
    pub hash: bool,
    /// The token's name in the log
    #[arg(long, default_value = "ci")]
    pub name: String,
    /// What it may do
    #[arg(long, value_enum, default_value = "operator")]
    pub role: TokenRole,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TokenRole {
    Viewer,
    Operator,
    Admin,
}

pub fn run(args: &TokenArgs) -> ExitCode {
    let printed = if args.hash { hash_of_input() } else { new_token(args) };
    match printed {
        Ok(text) => {
            crate::cli::say(format_args!("{text}\n"));
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report("token"),
    }
}

fn hash_of_input() -> Result<String, Failure> {
    let mut input = String::new();
    let read = std::io::stdin().take(TOKEN_BYTES).read_to_string(&mut input);
    read.map_err(|error| Failure::Failed(format!("the token on standard input can't be read: {error}")))?;
    let token = input.trim_end_matches(['\r', '\n']);
    if token.is_empty() {
        return Err(Failure::Usage("no token came on standard input".to_owned()));
    }
    Ok(hash(token))
}

fn new_token(args: &TokenArgs) -> Result<String, Failure> {
    let mut random = [0; 32];
    let filled = rand::rngs::SysRng.try_fill_bytes(&mut random);
    filled.map_err(|error| Failure::Failed(format!("the system gives no random bytes: {error}")))?;
    let token = base64url(&random);
    Ok(format!("{token}\n\n{}", snippet(args, &hash(&token))))
}

fn snippet(args: &TokenArgs, hash: &str) -> String {
    let role = match args.role {
        TokenRole::Viewer => "viewer",
        TokenRole::Operator => "operator",
        TokenRole::Admin => "admin",
    };
    let name = args.name.replace('\\', "\\\\").replace('"', "\\\"");
    format!(
        "# The token above is shown this once: keep it as $WEIR_TOKEN. This is for weir.toml:\n\
         [[admin.token]]\nname = \"{name}\"\nrole = \"{role}\"\nhash = \"{hash}\""
    )
}

fn hash(token: &str) -> String {
    let digest = Sha256::digest(token.as_bytes());
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

/// Base64 with the URL alphabet, without padding.
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().enumerate().fold(0u32, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
        for digit in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_is_rfc_4648() {
        for (plain, encoded) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64url(plain.as_bytes()), encoded);
        }
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn a_token_comes_with_its_hash() {
        let args = TokenArgs { hash: false, name: "a \"b\"".to_owned(), role: TokenRole::Admin };
        let printed = new_token(&args).unwrap();
        let token = printed.lines().next().unwrap();
        assert_eq!(token.len(), 43);
        assert!(printed.contains(&format!("hash = \"{}\"", hash(token))), "{printed}");
        assert!(printed.contains(r#"name = "a \"b\"""#) && printed.contains("role = \"admin\""), "{printed}");
        assert_ne!(token, new_token(&args).unwrap().lines().next().unwrap());
        assert_eq!(hash("test"), "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08");
    }
}
