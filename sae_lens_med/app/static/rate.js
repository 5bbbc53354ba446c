/* Rating: every answer is kept in this browser until the server has it on its disk. An answer has an id of its own, so
   that sending it again after a crash, a reload or from a second window is not a second answer. */
(function () {
  "use strict";

  function request(address, body) {
    return fetch(address, {
      method: "POST",
      headers: { "content-type": "application/json", "x-llmxai-token": document.querySelector('meta[name="llmxai-token"]').content },
      body: JSON.stringify(body)
    });
  }

  /* A server that was started again has another token; a page of it says which. True where it is another one. */
  function renewed() {
    return fetch(location.href, { headers: { accept: "text/html" } }).then(function (answer) { return answer.text(); }).then(function (page) {
      var now = new DOMParser().parseFromString(page, "text/html").querySelector('meta[name="llmxai-token"]');
      var own = document.querySelector('meta[name="llmxai-token"]');
      if (!now || now.content === own.content) return false;
      own.content = now.content;
      return true;
    });
  }

  function send(address, body) {
    return request(address, body).then(function (answer) {
      if (answer.status !== 403) return answer;
      return renewed().then(function (again) { return again ? request(address, body) : answer; });
    });
  }

  var join = document.getElementById("join-form");
  if (join) {
    try {
      join.elements.rater.value = localStorage.getItem("llmxai-rater") || "";
      var known = join.querySelector('[name="role"][value="' + (localStorage.getItem("llmxai-role") === "lay" ? "lay" : "clinician") + '"]');
      if (localStorage.getItem("llmxai-role")) known.checked = true;
    } catch (error) { /* Storage is switched off. */ }
    join.addEventListener("submit", function (event) {
      event.preventDefault();
      var rater = join.elements.rater.value, role = join.elements.role.value, status = document.getElementById("join-status");
      send(join.dataset.address, { rater: rater, role: role }).then(function (answer) {
        return answer.json().then(function (said) {
          if (!answer.ok) { status.textContent = said.error; return; }
          try { localStorage.setItem("llmxai-rater", rater); localStorage.setItem("llmxai-role", role); } catch (error) { /* As above. */ }
          location.assign(join.dataset.next + "/" + rater);
        });
      }).catch(function () { status.textContent = join.dataset.failed; });
    });
  }

  var form = document.getElementById("rate-form");
  if (!form) return;
  var status = document.getElementById("rate-status"), groups = Array.from(form.querySelectorAll(".axis-asked"));
  var data = form.dataset, prefix = "llmxai-rating:" + data.units + ":" + data.rater + ":", memory = new Map();
  var sending = null, retry = 0, timer = 0, leaving = false, count = 0, wrong = "", unheard = false;

  /* --- what waits: one entry of the storage each, so that two windows cannot write over each other's --- */

  function keep(entry) {
    try { localStorage.setItem(prefix + entry.body.entry_id, JSON.stringify(entry)); } catch (error) { memory.set(entry.body.entry_id, entry); }
  }
  function drop(id) {
    memory.delete(id);
    try { localStorage.removeItem(prefix + id); } catch (error) { /* It was in memory. */ }
  }
  function waiting() {
    var found = Array.from(memory.values());
    try {
      for (var i = 0; i < localStorage.length; i++) {
        var key = localStorage.key(i);
        if (key.indexOf(prefix) === 0) found.push(JSON.parse(localStorage.getItem(key)));
      }
    } catch (error) { /* Storage is switched off. */ }
    return found.sort(function (a, b) { return a.at - b.at || a.n - b.n; });
  }
  function of(axis) { return groups.find(function (group) { return group.dataset.axis === axis; }); }
  function chosen(group) { return group.querySelector("input:checked"); }
  function words(group, level) {
    var input = Array.from(group.querySelectorAll("input")).find(function (each) { return each.value === level; });
    return input ? input.parentElement.querySelector(".level").textContent : level;
  }
  function open() { return groups.filter(function (group) { return !chosen(group); }); }

  /* What is wrong stands until the next answer, else how far this text is. */
  function tell(text) {
    wrong = text || "";
    var so = waiting().length ? data.saving : data.saved;
    status.textContent = wrong || so.replace("{n}", groups.length - open().length).replace("{of}", groups.length);
  }

  /* --- how long this text has been looked at --- */

  var before = Number(data.seconds), since = performance.now(), clock = "llmxai-seconds:" + data.unit;
  try { before = Math.max(before, Number(sessionStorage.getItem(clock)) || 0); } catch (error) { /* As above. */ }
  function seconds() {
    if (!document.hidden) { before += (performance.now() - since) / 1000; since = performance.now(); }
    try { sessionStorage.setItem(clock, before); } catch (error) { /* As above. */ }
    return Math.min(86400, Math.round(before * 10) / 10);
  }
  document.addEventListener("visibilitychange", function () {
    if (document.hidden) { before += (performance.now() - since) / 1000; }
    since = performance.now();
  });
  window.addEventListener("pagehide", seconds);

  /* --- sending, one after another --- */

  function answered(entry, answer) {
    if (answer.status === 401 || answer.status === 403 || answer.status >= 500) throw new Error("again");
    return answer.json().then(function (said) {
      var body = entry.body, group = body.unit === data.unit ? of(body.axis) : null;
      drop(body.entry_id);
      if (answer.ok) {
        if (group) group.dataset.revision = said.entry.revision;
        return;
      }
      leaving = false;
      if (answer.status !== 409 || !said.entry || !group) {
        tell(data.refused.replace("{error}", said.error));
        if (group && chosen(group)) chosen(group).checked = false;
        return;
      }
      waiting().forEach(function (each) {
        if (each.body.unit === body.unit && each.body.axis === body.axis) drop(each.body.entry_id);
      });
      group.dataset.revision = said.entry.revision;
      Array.from(group.querySelectorAll("input")).forEach(function (each) { each.checked = each.value === said.entry.rating; });
      group.querySelector(".clash").textContent = data.conflict.replace("{theirs}", words(group, said.entry.rating)).replace("{ours}", words(group, body.rating));
    });
  }

  function next() {
    var entry = waiting()[0];
    if (!entry) return Promise.resolve();
    return send(data.address, entry.body).then(function (answer) { return answered(entry, answer); }).then(next);
  }

  function flush() {
    if (sending) return;
    clearTimeout(timer);
    sending = next().then(function () {
      sending = null;
      retry = 0;
      tell(unheard ? "" : wrong);
      unheard = false;
      if (leaving) location.assign(data.next);
    }, function () {
      sending = null;
      unheard = true;
      tell(data.waiting.replace("{n}", waiting().length));
      timer = setTimeout(flush, Math.min(10000, 500 * Math.pow(2, retry++)));
    });
  }
  window.addEventListener("online", flush);
  window.addEventListener("beforeunload", function (event) { if (memory.size) event.preventDefault(); });

  /* --- answering --- */

  function rate(input) {
    var group = input.closest("fieldset"), axis = group.dataset.axis;
    var own = waiting().filter(function (each) { return each.body.unit === data.unit && each.body.axis === axis; });
    var id = Array.from(crypto.getRandomValues(new Uint8Array(16)), function (b) { return b.toString(16).padStart(2, "0"); }).join("");
    group.querySelector(".clash").textContent = "";
    keep({
      at: Date.now(),
      n: count++,
      body: { unit: data.unit, axis: axis, rating: input.value, revision: Number(group.dataset.revision) + own.length, seconds: seconds(), entry_id: id }
    });
    tell(unheard ? data.waiting.replace("{n}", waiting().length) : "");
    flush();
  }

  function go(element) {
    element.focus({ preventScroll: true });
    (element.closest("fieldset") || element).scrollIntoView({ block: "nearest" });
  }
  function onward(group) {
    var after = groups.slice(groups.indexOf(group) + 1).concat(groups).find(function (each) { return !chosen(each); });
    go(after ? after.querySelector("input") : document.getElementById("rate-next"));
  }

  form.addEventListener("change", function (event) { if (event.target.type === "radio") rate(event.target); });
  form.addEventListener("keydown", function (event) {
    var group = event.target.type === "radio" && event.target.closest("fieldset");
    if (!group || !/^[1-9]$/.test(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
    var input = group.querySelectorAll("input")[Number(event.key) - 1];
    if (!input) return;
    event.preventDefault();
    if (!input.checked) { input.checked = true; rate(input); }
    onward(group);
  });
  form.addEventListener("submit", function (event) {
    event.preventDefault();
    var left = open();
    if (left.length) { tell(data.open.replace("{n}", left.length)); go(left[0].querySelector("input")); return; }
    leaving = true;
    flush();
  });
  window.addEventListener("pageshow", function (event) { if (event.persisted) location.reload(); });

  /* What was answered here and has not arrived yet stands as it was answered. */
  waiting().forEach(function (each) {
    var group = each.body.unit === data.unit && of(each.body.axis);
    if (group) Array.from(group.querySelectorAll("input")).forEach(function (input) { input.checked = input.value === each.body.rating; });
  });
  tell();
  flush();
  var first = open()[0];
  (first ? first.querySelector("input") : document.getElementById("rate-next")).focus({ preventScroll: true });
})();
