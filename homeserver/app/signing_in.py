"""How people come by accounts and sessions, prove who they are, and leave."""

from client_api.account import AccountRoutes
from client_api.admin.registration import SecretRegistrationRoutes
from client_api.admin.registration_tokens import RegistrationTokenRoutes
from client_api.contacts import ContactRoutes
from client_api.devices import DeviceRoutes
from client_api.login import LoginRoutes
from client_api.openid import OpenIdRoutes
from client_api.registration import RegistrationRoutes
from client_api.uia import FallbackRoutes, InteractiveAuth
from homeserver.app.conversations import Conversations
from homeserver.app.ground import Ground
from homeserver.app.people import People
from homeserver.app.syncing import Syncing
from homeserver.identity.bindings import Bindings
from homeserver.users.application_services import ApplicationServices, read_application_services
from homeserver.users.deactivation import Deactivation
from homeserver.users.logins import Logins
from homeserver.users.openid import OpenId
from homeserver.users.registration import Registration
from homeserver.users.registration_tokens import RegistrationTokens
from homeserver.users.uia import Stage, Uia
from homeserver.users.uia_stages import (
    DUMMY,
    PASSWORD,
    REGISTRATION_TOKEN,
    TERMS,
    DummyStage,
    PasswordStage,
    RegistrationTokenStage,
    TermsStage,
)
from rest.routes import Routes
from storage.records import accounts as account_records


class SigningIn:
    """Registration, login, interactive authentication, deactivation."""

    def __init__(
        self, ground: Ground, people: People, conversations: Conversations, syncing: Syncing
    ) -> None:
        config, collection, now = ground.config, ground.collection, ground.now
        accounts, sessions = people.accounts, people.sessions
        self.deactivation = Deactivation(
            accounts,
            sessions,
            ground.users,
            conversations.membership,
            conversations.account_data,
            people.profiles,
            ground.store.log,
            lambda: ground.replica.refresh(ground.shards.room_shards()),
            now,
        )
        self.bindings = bindings = Bindings(collection(account_records.BINDINGS), people.identity)
        self.deactivation.on_deactivated += (
            bindings.forget_user,
            people.presence.forget,
            syncing.pushers.forget_user,
            syncing.unread_tallies.forget_user,
            conversations.delayed.forget_user,
        )
        ground.consume(ground.users, "deactivation", self.deactivation.wants, self.deactivation.handle)
        self.registration_tokens = RegistrationTokens(collection(account_records.REGISTRATION_TOKENS), now)
        services = ApplicationServices(read_application_services(config.application_services), ground.name)
        accounts.reserved.append(services.is_reserved)
        registration = Registration(
            config.registration,
            accounts,
            sessions,
            people.profiles,
            self.registration_tokens,
            collection(account_records.REGISTRATION_NONCES),
            services,
            now,
        )
        logins = Logins(
            accounts,
            collection(account_records.LOGIN_TOKENS),
            collection(account_records.DEVICES),
            services,
            ground.limits,
            now,
        )
        terms = TermsStage(config.registration.terms)
        stages: dict[str, Stage] = {
            DUMMY: DummyStage(),
            PASSWORD: PasswordStage(logins),
            REGISTRATION_TOKEN: RegistrationTokenStage(self.registration_tokens),
            TERMS: terms,
        }
        uia = Uia(collection(account_records.UIA_SESSIONS), stages, now)
        self.interactive = InteractiveAuth(uia, password_login=config.auth.password_login)
        self.openid = OpenId(collection(account_records.OPENID_TOKENS), accounts, now)
        self.routes: list[Routes] = [
            RegistrationRoutes(registration, accounts, services, self.interactive),
            SecretRegistrationRoutes(registration, ground.name),
            RegistrationTokenRoutes(self.registration_tokens),
            LoginRoutes(
                logins,
                sessions,
                self.interactive,
                services,
                server_name=ground.name,
                password_login=config.auth.password_login,
                login_tokens=config.auth.login_tokens,
            ),
            AccountRoutes(accounts, sessions, self.deactivation, bindings, self.interactive),
            DeviceRoutes(people.devices, self.interactive),
            ContactRoutes(people.identity, bindings),
            OpenIdRoutes(self.openid, ground.name),
            FallbackRoutes(uia, terms, ground.name),
        ]
