// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who may change something.

use std::collections::HashMap;

use zbus::message::Header;
use zbus::{Connection, fdo};
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

/// Root may do anything; of others polkit is asked, and without polkit they may do nothing.
///
/// # Errors
/// `AccessDenied`, and why.
pub(crate) async fn check(
    connection: &Connection,
    header: &Header<'_>,
    action: &str,
) -> fdo::Result<()> {
    let denied = |why: String| fdo::Error::AccessDenied(format!("{action}: {why}"));
    let sender = header.sender().ok_or_else(|| denied("nobody is asking".into()))?;
    let bus = fdo::DBusProxy::new(connection).await?;
    if bus.get_connection_unix_user(sender.clone().into()).await? == 0 {
        return Ok(());
    }
    let ask = async {
        let subject = Subject::new_for_message_header(header)?;
        let polkit = AuthorityProxy::new(connection).await?;
        let flags = CheckAuthorizationFlags::AllowUserInteraction.into();
        let result =
            polkit.check_authorization(&subject, action, &HashMap::new(), flags, "").await?;
        Ok::<_, anyhow::Error>(result.is_authorized)
    };
    match ask.await {
        Ok(true) => Ok(()),
        Ok(false) => Err(denied("polkit does not allow it".into())),
        Err(error) => Err(denied(format!("polkit cannot be asked: {error:#}"))),
    }
}
