"""Click a texture and see what attention looked at, what it copied, and what that did.

    run = explorer.begin("07_explore", globals())
    run.show()                  # the view; static panels where nobody is there to click
    run.finish()

`Explorer` is the state, without widgets; `dtfn.explorer.view` shows it and is the only importer of
ipywidgets and ipympl.
"""

from dtfn.explorer.choice import Choice
from dtfn.explorer.networks import Team, team
from dtfn.explorer.session import Session, begin, is_headless
from dtfn.explorer.state import Explorer, Message

__all__ = ["Choice", "Explorer", "Message", "Session", "Team", "begin", "is_headless", "team"]
