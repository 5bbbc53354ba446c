/* Before anything is drawn: the theme that the reader chose, and the view that the address asks for. */
(function () {
  "use strict";
  var root = document.documentElement;
  root.classList.add("js");
  try {
    var theme = localStorage.getItem("llmxai-theme");
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    if (root.dataset.static !== undefined && localStorage.getItem("llmxai-view") === "researcher") root.dataset.view = "researcher";
  } catch (error) {
    /* Storage is switched off: the system's theme stays. */
  }
  if (new URLSearchParams(location.search).get("view") === "researcher") root.dataset.view = "researcher";
})();
