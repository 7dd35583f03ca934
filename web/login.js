// The login fallback: logs in with a password and hands the answer to the client that opened the page.
// spec: client-server "Login Fallback"
"use strict";

(function () {
  const form = document.getElementById("login");
  const error = document.getElementById("error");

  // What the client gave for /login in the page's address; credentials are not taken from there.
  function forwarded() {
    const body = {};
    const query = new URLSearchParams(window.location.search);
    for (const name of ["device_id", "initial_device_display_name"]) {
      if (query.has(name)) body[name] = query.get(name);
    }
    if (query.get("refresh_token") === "true") body.refresh_token = true;
    return body;
  }

  async function logIn() {
    const response = await fetch("/_matrix/client/v3/login", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        ...forwarded(),
        type: "m.login.password",
        identifier: { type: "m.id.user", user: form.elements.user.value },
        password: form.elements.password.value,
      }),
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error || "The server refused the login");
    return answer;
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    error.textContent = "";
    try {
      const answer = await logIn();
      form.hidden = true;
      document.getElementById("done").hidden = false;
      if (window.matrixLogin && window.matrixLogin.onLogin) window.matrixLogin.onLogin(answer);
    } catch (problem) {
      error.textContent = problem.message;
    }
  });
})();
