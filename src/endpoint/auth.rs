//! Who may join.

use std::fmt;
use std::future::Future;

use async_trait::async_trait;
use bytes::Bytes;
use subtle::ConstantTimeEq;

use crate::id::EndpointId;
use crate::role::Role;
use crate::transport::PeerAddress;

/// What an endpoint shows when it asks to join.
#[derive(Clone)]
#[non_exhaustive]
pub struct JoinRequest {
    /// Where it calls from.
    pub address: PeerAddress,
    /// Who it says it is. Nothing proves that, unless the token does.
    pub id: EndpointId,
    /// Its token; empty where it has none.
    pub token: Bytes,
}

impl fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token is a secret.
        f.debug_struct("JoinRequest")
            .field("address", &self.address)
            .field("id", &self.id)
            .field("token", &format_args!("{} bytes", self.token.len()))
            .finish()
    }
}

/// Decides who may join a host, and as what.
///
/// **On an open transport a token can be read on the wire** by whoever can listen there: until a cluster is sealed, tokens
/// keep out mistakes and strangers, not eavesdroppers.
///
/// ```
/// use zincmq::{Authenticator, JoinRequest, Role};
///
/// #[derive(Debug)]
/// struct Guests;
///
/// #[async_trait::async_trait]
/// impl Authenticator for Guests {
///     async fn authenticate(&self, request: &JoinRequest) -> Result<Role, String> {
///         Ok(if request.token.is_empty() { Role::ReadOnly } else { Role::Member })
///     }
/// }
/// ```
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// The role the endpoint gets, or the reason why it is refused, which it is told.
    ///
    /// The host goes on meanwhile, and asks about a bounded number of endpoints at once: 256 over
    /// all, and 16 of one address (one IPv6 network of 64 bits). Must be cancel safe: the call is
    /// dropped when the endpoint hangs up, and at the handshake timeout.
    ///
    /// # Errors
    /// The reason for the refusal, at most 255 bytes of which travel.
    async fn authenticate(&self, request: &JoinRequest) -> Result<Role, String>;
}

/// Admits everyone as a member.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowAnonymous;

#[async_trait]
impl Authenticator for AllowAnonymous {
    async fn authenticate(&self, _request: &JoinRequest) -> Result<Role, String> {
        Ok(Role::Member)
    }
}

/// Admits as members those who show one shared token, compared in constant time.
#[derive(Clone)]
pub struct SharedToken(Bytes);

impl SharedToken {
    /// Admits with this token.
    #[must_use]
    pub fn new(token: impl Into<Bytes>) -> Self {
        Self(token.into())
    }
}

impl fmt::Debug for SharedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedToken").finish_non_exhaustive()
    }
}

#[async_trait]
impl Authenticator for SharedToken {
    async fn authenticate(&self, request: &JoinRequest) -> Result<Role, String> {
        if bool::from(self.0.ct_eq(&request.token)) {
            Ok(Role::Member)
        } else if request.token.is_empty() {
            Err("a token is required".to_owned())
        } else {
            Err("wrong token".to_owned())
        }
    }
}

/// An authenticator made of an async closure.
///
/// ```
/// use zincmq::{Host, JoinRequest, Role, authenticate_fn};
///
/// let builder = Host::builder().authenticator(authenticate_fn(|request: JoinRequest| async move {
///     if request.token.starts_with(b"reader-") { Ok(Role::ReadOnly) } else { Err("unknown token".to_owned()) }
/// }));
/// # let _ = builder;
/// ```
pub fn authenticate_fn<F, Fut>(decide: F) -> impl Authenticator
where
    F: Fn(JoinRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Role, String>> + Send + 'static,
{
    AuthenticateFn(decide)
}

struct AuthenticateFn<F>(F);

#[async_trait]
impl<F, Fut> Authenticator for AuthenticateFn<F>
where
    F: Fn(JoinRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Role, String>> + Send + 'static,
{
    async fn authenticate(&self, request: &JoinRequest) -> Result<Role, String> {
        (self.0)(request.clone()).await
    }
}
