# SPDX-License-Identifier: GPL-2.0-or-later
"""The live page: ``vnic serve --web``.

    async with WebServer(host).listen(0) as url:          http://127.0.0.1:PORT/TOKEN/

server.py is HTTP, who may look, and how often; state.py what a look shows, trees.py the call trees, pictures.py the
tables; static/ is the page itself.
"""
