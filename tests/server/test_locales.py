"""What the server gives the page of locales/."""

from ..locale_files import LOCALES, read


def test_the_server_serves_every_language(server):
    served = server.get("/i18n")
    for language in (folder.name for folder in LOCALES.iterdir()):
        expected = {"nodeDefs": read(language), **read(language, "main.json")}
        assert {key: served[language][key] for key in expected} == expected
