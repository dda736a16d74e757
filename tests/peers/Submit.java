// JavaMail, now Jakarta Mail, sends a message. Arguments: host, port, sender, recipient, the message's file.
import jakarta.mail.Session;
import jakarta.mail.Transport;
import jakarta.mail.internet.InternetAddress;
import jakarta.mail.internet.MimeMessage;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Properties;

class Submit {
    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        properties.put("mail.smtp.host", arguments[0]);
        properties.put("mail.smtp.port", arguments[1]);
        properties.put("mail.smtp.from", arguments[2]);
        // As it greets where the machine has no name but an address of the sixth version.
        properties.put("mail.smtp.localhost", "[2001:db8::1]");
        Session session = Session.getInstance(properties);
        MimeMessage message = new MimeMessage(session, Files.newInputStream(Path.of(arguments[4])));
        InternetAddress recipient = new InternetAddress();
        recipient.setAddress(arguments[3]);
        Transport.send(message, new InternetAddress[] {recipient});
    }
}
