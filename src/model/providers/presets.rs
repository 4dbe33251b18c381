//! The table of presets: providers that need no more than the id and the secret of a client.
//!
//! Names, ids of users and scopes are those of PocketBase, where it has the provider, so that
//! imported links keep working. `verified` is stricter: an address counts as verified only if the
//! provider says so.

use super::preset::{AddressList, CLAIMS, OIDC, Preset, Profile, SecretPlace, Verified};

/// A profile with the names that most have.
const PLAIN: Profile = Profile {
    id: "/id",
    name: &["/name"],
    username: "",
    email: "/email",
    verified: Verified::Unknown,
    picture: "",
    required: None,
};

/// A provider that is not one of OpenID Connect.
const BASE: Preset = Preset {
    scopes: &[],
    profile: PLAIN,
    ..OIDC
};

/// The addresses of GitHub, and of those that copied its API.
const EMAILS: AddressList = AddressList {
    path: "/emails",
    list: "",
    email: "email",
    primary: "primary",
    verified: "verified",
};

pub const PRESETS: [Preset; 32] = [
    Preset {
        name: "apple",
        display_name: "Apple",
        auth_url: "https://appleid.apple.com/auth/authorize",
        token_url: "https://appleid.apple.com/auth/token",
        scopes: &["name", "email"],
        page_parameters: &[("response_mode", "form_post")],
        profile: CLAIMS,
        id_token: Some((
            "https://appleid.apple.com",
            "https://appleid.apple.com/auth/keys",
        )),
        ..BASE
    },
    Preset {
        name: "google",
        display_name: "Google",
        auth_url: "https://accounts.google.com/o/oauth2/v2/auth",
        token_url: "https://oauth2.googleapis.com/token",
        user_url: "https://www.googleapis.com/oauth2/v3/userinfo",
        scopes: &[
            "https://www.googleapis.com/auth/userinfo.profile",
            "https://www.googleapis.com/auth/userinfo.email",
        ],
        profile: CLAIMS,
        ..BASE
    },
    Preset {
        name: "microsoft",
        display_name: "Microsoft",
        auth_url: "https://login.microsoftonline.com/common/oauth2/v2.0/authorize",
        token_url: "https://login.microsoftonline.com/common/oauth2/v2.0/token",
        user_url: "https://graph.microsoft.com/v1.0/me",
        scopes: &["User.Read"],
        // The administrator of any tenant can set `mail` to any address.
        profile: Profile {
            name: &["/displayName"],
            email: "/mail",
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "yandex",
        display_name: "Yandex",
        auth_url: "https://oauth.yandex.com/authorize",
        token_url: "https://oauth.yandex.com/token",
        user_url: "https://login.yandex.ru/info",
        scopes: &["login:email", "login:avatar", "login:info"],
        profile: Profile {
            name: &["/real_name"],
            username: "/login",
            email: "/default_email",
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "facebook",
        display_name: "Facebook",
        auth_url: "https://www.facebook.com/v23.0/dialog/oauth",
        token_url: "https://graph.facebook.com/v23.0/oauth/access_token",
        user_url: "https://graph.facebook.com/me?fields=name,email,picture.type(large)",
        scopes: &["email"],
        profile: Profile {
            picture: "/picture/data/url",
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "instagram2",
        display_name: "Instagram",
        auth_url: "https://www.instagram.com/oauth/authorize",
        token_url: "https://api.instagram.com/oauth/access_token",
        user_url: "https://graph.instagram.com/me?fields=id,username,account_type,user_id,name,profile_picture_url",
        scopes: &["instagram_business_basic"],
        profile: Profile {
            id: "/user_id",
            username: "/username",
            email: "",
            picture: "/profile_picture_url",
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "github",
        display_name: "GitHub",
        auth_url: "https://github.com/login/oauth/authorize",
        token_url: "https://github.com/login/oauth/access_token",
        user_url: "https://api.github.com/user",
        scopes: &["read:user", "user:email"],
        profile: Profile {
            username: "/login",
            email: "",
            picture: "/avatar_url",
            ..PLAIN
        },
        addresses: Some(EMAILS),
        ..BASE
    },
    Preset {
        name: "gitlab",
        display_name: "GitLab",
        auth_url: "https://gitlab.com/oauth/authorize",
        token_url: "https://gitlab.com/oauth/token",
        user_url: "https://gitlab.com/api/v4/user",
        scopes: &["read_user"],
        profile: Profile {
            username: "/username",
            verified: Verified::Present("/confirmed_at"),
            picture: "/avatar_url",
            required: Some(("/state", "active")),
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "bitbucket",
        display_name: "Bitbucket",
        auth_url: "https://bitbucket.org/site/oauth2/authorize",
        token_url: "https://bitbucket.org/site/oauth2/access_token",
        user_url: "https://api.bitbucket.org/2.0/user",
        scopes: &["account", "email"],
        pkce: false,
        profile: Profile {
            id: "/uuid",
            name: &["/display_name"],
            username: "/username",
            email: "",
            picture: "/links/avatar/href",
            required: Some(("/account_status", "active")),
            ..PLAIN
        },
        addresses: Some(AddressList {
            list: "/values",
            primary: "is_primary",
            verified: "is_confirmed",
            ..EMAILS
        }),
        ..BASE
    },
    Preset {
        name: "gitee",
        display_name: "Gitee",
        auth_url: "https://gitee.com/oauth/authorize",
        token_url: "https://gitee.com/oauth/token",
        user_url: "https://gitee.com/api/v5/user",
        scopes: &["user_info", "emails"],
        profile: Profile {
            username: "/login",
            picture: "/avatar_url",
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "gitea",
        display_name: "Gitea/Forgejo",
        auth_url: "https://gitea.com/login/oauth/authorize",
        token_url: "https://gitea.com/login/oauth/access_token",
        user_url: "https://gitea.com/api/v1/user",
        scopes: &["read:user", "user:email"],
        profile: Profile {
            name: &["/full_name"],
            username: "/login",
            email: "",
            picture: "/avatar_url",
            ..PLAIN
        },
        addresses: Some(EMAILS),
        ..BASE
    },
    Preset {
        name: "discord",
        display_name: "Discord",
        auth_url: "https://discord.com/api/oauth2/authorize",
        token_url: "https://discord.com/api/oauth2/token",
        user_url: "https://discord.com/api/users/@me",
        scopes: &["identify", "email"],
        profile: Profile {
            name: &["/global_name"],
            username: "/username",
            verified: Verified::At("/verified"),
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "twitter",
        display_name: "X/Twitter",
        auth_url: "https://x.com/i/oauth2/authorize",
        token_url: "https://api.x.com/2/oauth2/token",
        user_url: "https://api.x.com/2/users/me?user.fields=id,name,username,profile_image_url,confirmed_email",
        scopes: &["users.read", "users.email", "tweet.read"],
        secret: SecretPlace::Header,
        profile: Profile {
            id: "/data/id",
            name: &["/data/name"],
            username: "/data/username",
            email: "/data/confirmed_email",
            verified: Verified::Always,
            picture: "/data/profile_image_url",
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "kakao",
        display_name: "Kakao",
        auth_url: "https://kauth.kakao.com/oauth/authorize",
        token_url: "https://kauth.kakao.com/oauth/token",
        user_url: "https://kapi.kakao.com/v2/user/me",
        scopes: &["account_email", "profile_nickname", "profile_image"],
        profile: Profile {
            name: &["/kakao_account/profile/nickname"],
            email: "/kakao_account/email",
            // is_email_verified stays true after another account has verified the address; the
            // flag is_email_valid alone tells.
            verified: Verified::Unknown,
            picture: "/kakao_account/profile/profile_image_url",
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "vk",
        display_name: "\u{412}\u{41a}\u{43e}\u{43d}\u{442}\u{430}\u{43a}\u{442}\u{435}",
        auth_url: "https://oauth.vk.com/authorize",
        token_url: "https://oauth.vk.com/access_token",
        user_url: "https://api.vk.com/method/users.get?fields=photo_max,screen_name&v=5.131",
        scopes: &["email"],
        pkce: false,
        profile: Profile {
            id: "/response/0/id",
            name: &["/response/0/first_name", "/response/0/last_name"],
            username: "/response/0/screen_name",
            // It comes with the token.
            email: "/token/email",
            picture: "/response/0/photo_max",
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "linear",
        display_name: "Linear",
        auth_url: "https://linear.app/oauth/authorize",
        token_url: "https://api.linear.app/oauth/token",
        user_url: "https://api.linear.app/graphql",
        scopes: &["read"],
        query: "query Me { viewer { id displayName name email avatarUrl active } }",
        profile: Profile {
            id: "/data/viewer/id",
            name: &["/data/viewer/name"],
            username: "/data/viewer/displayName",
            email: "/data/viewer/email",
            picture: "/data/viewer/avatarUrl",
            required: Some(("/data/viewer/active", "true")),
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "notion",
        display_name: "Notion",
        auth_url: "https://api.notion.com/v1/oauth/authorize",
        token_url: "https://api.notion.com/v1/oauth/token",
        user_url: "https://api.notion.com/v1/users/me",
        page_parameters: &[("owner", "user")],
        secret: SecretPlace::Header,
        headers: &[("Notion-Version", "2022-06-28")],
        profile: Profile {
            id: "/bot/owner/user/id",
            name: &["/bot/owner/user/name"],
            email: "/bot/owner/user/person/email",
            picture: "/bot/owner/user/avatar_url",
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "monday",
        display_name: "monday.com",
        auth_url: "https://auth.monday.com/oauth2/authorize",
        token_url: "https://auth.monday.com/oauth2/token",
        user_url: "https://api.monday.com/v2",
        scopes: &["me:read"],
        query: "query { me { id enabled name email is_verified photo_small } }",
        profile: Profile {
            id: "/data/me/id",
            name: &["/data/me/name"],
            email: "/data/me/email",
            verified: Verified::At("/data/me/is_verified"),
            picture: "/data/me/photo_small",
            required: Some(("/data/me/enabled", "true")),
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "lark",
        display_name: "Lark",
        auth_url: "https://accounts.feishu.cn/open-apis/authen/v1/authorize",
        token_url: "https://open.feishu.cn/open-apis/authen/v2/oauth/token",
        user_url: "https://open.feishu.cn/open-apis/authen/v1/user_info",
        profile: Profile {
            id: "/data/union_id",
            name: &["/data/name"],
            email: "",
            picture: "/data/avatar_url",
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "box",
        display_name: "Box",
        auth_url: "https://account.box.com/api/oauth2/authorize",
        token_url: "https://api.box.com/oauth2/token",
        user_url: "https://api.box.com/2.0/users/me",
        scopes: &["root_readonly"],
        profile: Profile {
            email: "/login",
            picture: "/avatar_url",
            required: Some(("/status", "active")),
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "spotify",
        display_name: "Spotify",
        auth_url: "https://accounts.spotify.com/authorize",
        token_url: "https://accounts.spotify.com/api/token",
        user_url: "https://api.spotify.com/v1/me",
        scopes: &["user-read-private", "user-read-email"],
        profile: Profile {
            name: &["/display_name"],
            picture: "/images/0/url",
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "trakt",
        display_name: "Trakt",
        auth_url: "https://trakt.tv/oauth/authorize",
        token_url: "https://api.trakt.tv/oauth/token",
        user_url: "https://api.trakt.tv/users/settings",
        headers: &[("trakt-api-key", "{client_id}"), ("trakt-api-version", "2")],
        profile: Profile {
            id: "/user/ids/uuid",
            name: &["/user/name"],
            username: "/user/username",
            email: "",
            picture: "/user/images/avatar/full",
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "twitch",
        display_name: "Twitch",
        auth_url: "https://id.twitch.tv/oauth2/authorize",
        token_url: "https://id.twitch.tv/oauth2/token",
        user_url: "https://api.twitch.tv/helix/users",
        scopes: &["user:read:email"],
        headers: &[("Client-Id", "{client_id}")],
        profile: Profile {
            id: "/data/0/id",
            name: &["/data/0/display_name"],
            username: "/data/0/login",
            email: "/data/0/email",
            // "The user's verified email address", says the reference.
            verified: Verified::Always,
            picture: "/data/0/profile_image_url",
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "patreon",
        display_name: "Patreon",
        auth_url: "https://www.patreon.com/oauth2/authorize",
        token_url: "https://www.patreon.com/api/oauth2/token",
        user_url: "https://www.patreon.com/api/oauth2/v2/identity?fields%5Buser%5D=full_name,email,vanity,image_url,is_email_verified",
        scopes: &["identity", "identity[email]"],
        profile: Profile {
            id: "/data/id",
            name: &["/data/attributes/full_name"],
            username: "/data/attributes/vanity",
            email: "/data/attributes/email",
            verified: Verified::At("/data/attributes/is_email_verified"),
            picture: "/data/attributes/image_url",
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "strava",
        display_name: "Strava",
        auth_url: "https://www.strava.com/oauth/authorize",
        token_url: "https://www.strava.com/api/v3/oauth/token",
        user_url: "https://www.strava.com/api/v3/athlete",
        scopes: &["profile:read_all"],
        profile: Profile {
            name: &["/firstname", "/lastname"],
            username: "/username",
            email: "",
            picture: "/profile",
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "wakatime",
        display_name: "WakaTime",
        auth_url: "https://wakatime.com/oauth/authorize",
        token_url: "https://wakatime.com/oauth/token",
        user_url: "https://wakatime.com/api/v1/users/current",
        scopes: &["email"],
        profile: Profile {
            id: "/data/id",
            name: &["/data/display_name"],
            username: "/data/username",
            email: "/data/email",
            verified: Verified::At("/data/is_email_confirmed"),
            picture: "/data/photo",
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "livechat",
        display_name: "LiveChat",
        auth_url: "https://accounts.livechat.com/",
        token_url: "https://accounts.livechat.com/token",
        user_url: "https://accounts.livechat.com/v2/accounts/me",
        profile: Profile {
            id: "/account_id",
            verified: Verified::At("/email_verified"),
            picture: "/avatar_url",
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "mailcow",
        display_name: "mailcow",
        scopes: &["profile"],
        profile: Profile {
            name: &["/full_name"],
            username: "/username",
            required: Some(("/active", "1")),
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "planningcenter",
        display_name: "Planning Center",
        auth_url: "https://api.planningcenteronline.com/oauth/authorize",
        token_url: "https://api.planningcenteronline.com/oauth/token",
        user_url: "https://api.planningcenteronline.com/people/v2/me",
        scopes: &["people"],
        profile: Profile {
            id: "/data/id",
            name: &["/data/attributes/name"],
            email: "",
            picture: "/data/attributes/avatar",
            required: Some(("/data/attributes/status", "active")),
            ..PLAIN
        },
        ..BASE
    },
    Preset {
        name: "linkedin",
        display_name: "LinkedIn",
        auth_url: "https://www.linkedin.com/oauth/v2/authorization",
        token_url: "https://www.linkedin.com/oauth/v2/accessToken",
        user_url: "https://api.linkedin.com/v2/userinfo",
        scopes: &["openid", "profile", "email"],
        pkce: false,
        profile: Profile {
            username: "",
            ..CLAIMS
        },
        ..BASE
    },
    Preset {
        name: "slack",
        display_name: "Slack",
        auth_url: "https://slack.com/openid/connect/authorize",
        token_url: "https://slack.com/api/openid.connect.token",
        user_url: "https://slack.com/api/openid.connect.userInfo",
        scopes: &["openid", "profile", "email"],
        pkce: false,
        profile: Profile {
            username: "",
            required: Some(("/ok", "true")),
            ..CLAIMS
        },
        ..BASE
    },
    Preset {
        name: "line",
        display_name: "LINE",
        auth_url: "https://access.line.me/oauth2/v2.1/authorize",
        token_url: "https://api.line.me/oauth2/v2.1/token",
        user_url: "https://api.line.me/v2/profile",
        scopes: &["profile"],
        profile: Profile {
            id: "/userId",
            name: &["/displayName"],
            email: "",
            picture: "/pictureUrl",
            ..PLAIN
        },
        ..BASE
    },
];

/// The preset of this name.
pub fn preset(name: &str) -> Option<&'static Preset> {
    static TABLE: [Preset; PRESETS.len()] = PRESETS;
    TABLE.iter().find(|preset| preset.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_is_complete_and_its_name_is_its_own() {
        let names: BTreeSet<&str> = PRESETS.iter().map(|it| it.name).collect();
        assert_eq!(names.len(), PRESETS.len());
        for preset in PRESETS {
            let name = preset.name;
            assert!(preset.profile.id.starts_with('/'), "{name}");
            if name == "mailcow" {
                // It has no address of its own.
                continue;
            }
            for url in [preset.auth_url, preset.token_url] {
                assert!(url.starts_with("https://"), "{name}: {url}");
            }
            let tells = preset.user_url.starts_with("https://") || preset.id_token.is_some();
            assert!(tells, "{name}");
        }
    }
}
