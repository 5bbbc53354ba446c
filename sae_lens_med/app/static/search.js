/* Searching without a server: the texts lie beside the page in files that add themselves to `llmxaiTexts`. */
(function () {
  "use strict";
  var form = document.getElementById("search"), list = document.getElementById("hits"), status = document.getElementById("search-status");
  if (!list) return;
  var shards = Number(list.dataset.shards), MOST = 100;
  window.llmxaiTexts = [];

  function fold(text) { return text.normalize("NFKC").toLowerCase(); }

  function load(then) {
    var left = shards - window.llmxaiTexts.length;
    if (left <= 0) { then(); return; }
    for (var i = 0; i < shards; i++) {
      var script = document.createElement("script");
      script.src = "texts-" + i + ".js";
      script.onload = script.onerror = function () { left -= 1; if (!left) then(); };
      document.head.append(script);
    }
  }

  function find(query) {
    var wanted = fold(query.trim()), found = [];
    list.replaceChildren();
    if (!wanted) { status.textContent = ""; return; }
    window.llmxaiTexts.forEach(function (shard) {
      shard.forEach(function (row) { if (fold(row.text).indexOf(wanted) >= 0) found.push(row); });
    });
    found.sort(function (a, b) { return (a.kind === "feature" ? 0 : 1) - (b.kind === "feature" ? 0 : 1); });
    found.slice(0, MOST).forEach(function (row) {
      var item = document.createElement("li"), kind = document.createElement("span"), body = document.createElement("div");
      var link = document.createElement("a"), text = document.createElement("div");
      kind.className = "small muted";
      kind.textContent = list.dataset[row.kind];
      link.href = row.kind + "-" + row.number + ".html";
      link.textContent = row.title;
      text.className = "small muted untrusted";
      var at = Math.max(0, fold(row.text).indexOf(wanted) - 40);
      text.textContent = row.text.slice(at, at + 120);
      body.append(link, text);
      item.append(kind, body);
      list.append(item);
    });
    status.textContent = found.length ? status.dataset.count.replace("{n}", found.length) : status.dataset.nothing;
  }

  form.addEventListener("submit", function (event) {
    event.preventDefault();
    load(function () { find(form.elements.q.value); });
  });
  var asked = new URLSearchParams(location.search).get("q");
  if (asked) { form.elements.q.value = asked; load(function () { find(asked); }); }
})();
