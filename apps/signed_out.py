"""What a page says while its login is gone: logged out in another tab, or the app was started anew."""

from __future__ import annotations

# Of this browser; all have one user's name. What stood in the boxes (draft.py) is not for whoever comes next.
LOG_OUT = '<a href="logout?all_session=false" onclick="sessionStorage.clear()">Log out</a>'

# gradio tells the page no more than "Error". A fetch that is answered 401 is the only sign of it. That the login is
# back, by another tab, is told by the fetch that begins an action: some others are answered without a login.
HEAD = """<script>
(() => {
  const fetch = window.fetch;
  const tell = () => {
    if (document.getElementById("signed-out")) return;
    const box = document.createElement("div");
    box.id = "signed-out";
    box.className = "banner";
    box.setAttribute("role", "alert");
    box.append("You are not logged in any more: ");
    const again = document.createElement("a");
    again.href = "";
    again.append("reload the page");
    box.append(again, ".");
    document.body.prepend(box);
  };
  window.fetch = async (...asked) => {
    const answer = await fetch(...asked);
    // The page that asks for the login has no tabs yet.
    if (answer.status === 401 && document.querySelector("#head")) tell();
    if (answer.ok && answer.url.includes("/queue/join")) document.getElementById("signed-out")?.remove();
    return answer;
  };
})();
</script>"""
