/* Theme, view, and keys of every page. Single letters can be switched off (WCAG 2.1.4). */
(function () {
  "use strict";
  var root = document.documentElement, theme = document.getElementById("theme"), help = document.getElementById("help");
  var dialog = document.getElementById("keys-help"), letters = document.getElementById("letters");

  function kept(name, value) {
    try {
      if (value === undefined) return localStorage.getItem(name);
      localStorage.setItem(name, value);
    } catch (error) {
      /* Storage is switched off: the choice lasts as long as the page. */
    }
    return null;
  }

  if (theme) {
    theme.hidden = false;
    theme.addEventListener("click", function () {
      var dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      kept("llmxai-theme", root.dataset.theme);
    });
  }
  if (help && dialog.showModal) {
    help.hidden = false;
    help.addEventListener("click", function () { dialog.showModal(); });
  }
  letters.checked = kept("llmxai-letters") !== "off";
  letters.addEventListener("change", function () { kept("llmxai-letters", letters.checked ? "on" : "off"); });

  /* A page from disk has both views in it: its switch changes the page and the address. */
  if (root.dataset.static !== undefined) {
    var links = Array.from(document.querySelectorAll("[data-set-view]"));
    var mark = function () {
      links.forEach(function (link) {
        if (link.dataset.setView === root.dataset.view) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      });
    };
    links.forEach(function (link) {
      link.addEventListener("click", function (event) {
        event.preventDefault();
        root.dataset.view = link.dataset.setView;
        kept("llmxai-view", link.dataset.setView);
        mark();
      });
    });
    mark();
  }

  document.addEventListener("keydown", function (event) {
    var at = event.target, writing = at.closest && at.closest("input, select, textarea, dialog");
    if (writing || event.ctrlKey || event.metaKey || event.altKey || !letters.checked) return;
    var to = { j: 'a[rel="next"]', k: 'a[rel="prev"]' }[event.key];
    var link = to && document.querySelector(to);
    if (link) link.click();
    else if (event.key === "/") {
      var field = document.querySelector('input[type="search"]');
      if (field) { event.preventDefault(); field.focus(); }
    } else if (event.key === "?" && help && !help.hidden) dialog.showModal();
  });
})();
