// Tells the client that opened the page that the stage is completed (spec: client-server "Fallback").
"use strict";

if (window.onAuthDone) {
  window.onAuthDone();
} else if (window.opener && window.opener.postMessage) {
  window.opener.postMessage("authDone", "*");
}
