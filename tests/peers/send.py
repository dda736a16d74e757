"""Sends four messages by smtplib, one way each, and sees one refusal. Arguments: port, authority's certificate."""

import smtplib
import ssl
import sys
from email.message import EmailMessage

port, authority = int(sys.argv[1]), sys.argv[2]
done = []


def message(text, **kind):
    m = EmailMessage()
    m["From"], m["To"], m["Subject"] = "alice@sender.test", "bob@example.test", "by smtplib"
    m.set_content(text, **kind)
    return m


with smtplib.SMTP("localhost", port) as client:
    assert client.send_message(message("plain text\n.dot\n")) == {}
    done.append("plain")
    assert client.send_message(message("Grüße\n", cte="8bit")) == {}
    done.append("8-bit")

with smtplib.SMTP("localhost", port) as client:
    client.ehlo("client.test")
    assert client.has_extn("smtputf8")
    text = "From: 用户@sender.test\r\nTo: 用户@example.test\r\n\r\nutf8\r\n".encode()
    assert client.sendmail("用户@sender.test", ["用户@example.test"], text, mail_options=["SMTPUTF8", "BODY=8BITMIME"]) == {}
    done.append("utf8")

with smtplib.SMTP("localhost", port) as client:
    client.starttls(context=ssl.create_default_context(cafile=authority))
    client.ehlo()
    assert client.send_message(message("secret text\n")) == {}
    done.append("tls")

with smtplib.SMTP("localhost", port) as client:
    client.ehlo("client.test")
    code, _ = client.docmd("RCPT TO:<before-mail@example.test>")
    assert code == 503, code
    done.append("refused")

print(", ".join(done))
